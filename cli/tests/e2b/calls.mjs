// Calls of the newest SDK of E2B for JavaScript, one after the other. Its module is looked for from the
// working directory, which has it installed.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.cwd(), 'package.json'))
const {
  AuthenticationError,
  CommandExitError,
  FileType,
  NotFoundError,
  Sandbox,
  SandboxNotFoundError,
  TimeoutError,
} = require('e2b')

// Commands
await assert.rejects(Sandbox.create({ apiKey: 'e2b_0000' }), AuthenticationError)
await assert.rejects(Sandbox.create('no-such-template'))
await assert.rejects(Sandbox.create({ network: { allowOut: ['1.1.1.1'] } }))
const sandbox = await Sandbox.create({
  metadata: { for: 'a test' },
  envs: { OF_ALL: '1' },
  timeoutMs: 300_000,
})
const run = (text, options) => sandbox.commands.run(text, options)
const result = await run('echo out; echo err >&2; echo $OF_ALL $OWN', { envs: { OWN: '2' } })
assert.deepEqual(
  [result.stdout, result.stderr, result.exitCode],
  ['out\n1 2\n', 'err\n', 0]
)
await assert.rejects(run('echo before; exit 7'), (error) => {
  assert(error instanceof CommandExitError)
  assert.deepEqual([error.exitCode, error.stdout], [7, 'before\n'])
  return true
})
assert.equal((await run('pwd', { cwd: '/tmp' })).stdout, '/tmp\n')
assert.equal((await run('id -un', { user: 'root' })).stdout, 'root\n')
let live = ''
await run('for i in 1 2 3; do echo $i; done', { onStdout: (text) => (live += text) })
assert.equal(live, '1\n2\n3\n')
await assert.rejects(run('sleep 100', { timeoutMs: 1000 }), TimeoutError)

const cat = await run('cat', { background: true, stdin: true })
// The one whose time was over may take a moment to end.
const before = Date.now()
while ((await sandbox.commands.list()).some((one) => one.pid !== cat.pid)) {
  assert(Date.now() - before < 60_000)
}
await sandbox.commands.sendStdin(cat.pid, 'typed\n')
await sandbox.commands.closeStdin(cat.pid)
assert.equal((await cat.wait()).stdout, 'typed\n')

const sleeper = await run('sleep 1000', { background: true })
await sleeper.disconnect()
const again = await sandbox.commands.connect(sleeper.pid)
assert.equal(await sandbox.commands.kill(sleeper.pid), true)
assert.equal(await sandbox.commands.kill(sleeper.pid), false)
await assert.rejects(again.wait(), CommandExitError)
await assert.rejects(sandbox.commands.connect(999999), NotFoundError)

// A terminal
let printed = ''
const terminal = await sandbox.pty.create({
  rows: 24,
  cols: 80,
  onData: (bytes) => (printed += Buffer.from(bytes).toString()),
})
await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size; exit 3\n'))
await assert.rejects(terminal.wait(), (error) => error.exitCode === 3)
assert.match(printed, /24 80/)

// Files
const { files } = sandbox
assert.equal((await files.write('/tmp/a/b.txt', 'text')).path, '/tmp/a/b.txt')
assert.equal(await files.read('/tmp/a/b.txt'), 'text')
const everything = new Uint8Array(1_000_000).map((_, index) => index % 251)
await files.write('/tmp/bytes', everything.buffer)
assert.deepEqual(await files.read('/tmp/bytes', { format: 'bytes' }), everything)
await assert.rejects(files.read('/tmp/nothing'), NotFoundError)
assert.equal(await files.exists('/tmp/nothing'), false)
const info = await files.getInfo('/tmp/a/b.txt')
assert.deepEqual([info.name, info.type, info.size], ['b.txt', FileType.FILE, 4])
assert.equal(await files.makeDir('/tmp/d/e'), true)
assert.equal(await files.makeDir('/tmp/d/e'), false)
await files.rename('/tmp/a/b.txt', '/tmp/d/e/f.txt')
assert.deepEqual(
  (await files.list('/tmp/d', { depth: 3 })).map((one) => one.path),
  ['/tmp/d/e', '/tmp/d/e/f.txt']
)
await files.remove('/tmp/d')
assert.equal(await files.exists('/tmp/d'), false)

// URLs without the sandbox's token
const signed = await sandbox.downloadUrl('/tmp/bytes', { useSignatureExpiration: 60_000 })
const fetched = await (await fetch(signed)).arrayBuffer()
assert.deepEqual(new Uint8Array(fetched), everything)

// What it uses
const [metrics] = await sandbox.getMetrics()
assert(metrics.memUsed > 0 && metrics.memUsed <= metrics.memTotal, JSON.stringify(metrics))
assert(metrics.cpuCount >= 1 && metrics.cpuUsedPct >= 0 && metrics.cpuUsedPct <= 100)

// Snapshots and forks
await files.write('/tmp/state', 'before')
const snapshot = await sandbox.createSnapshot({ name: 'of-javascript' })
assert.deepEqual(snapshot.names, ['of-javascript'])
const [copy] = await sandbox.fork()
await files.write('/tmp/state', 'after')
const later = await Sandbox.create('of-javascript')
for (const one of [copy, later]) {
  assert.notEqual(one.sandboxId, sandbox.sandboxId)
  assert.equal(await one.files.read('/tmp/state'), 'before')
  assert.equal(await one.kill(), true)
}
assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)

// The life of a sandbox
const described = await sandbox.getInfo()
assert.equal(described.state, 'running')
assert.deepEqual(described.metadata, { for: 'a test' })
const listed = await Sandbox.list({ query: { metadata: { for: 'a test' } } }).nextItems()
assert.deepEqual(listed.map((one) => one.sandboxId), [sandbox.sandboxId])
await sandbox.pause()
assert.equal(await sandbox.isRunning(), false)
const resumed = await Sandbox.connect(sandbox.sandboxId)
assert.equal(await resumed.files.read('/tmp/state'), 'after')
assert.equal(await resumed.kill(), true)
assert.equal(await resumed.kill(), false)
await assert.rejects(Sandbox.connect(sandbox.sandboxId), SandboxNotFoundError)
console.log('all calls are served')
