// Calls of an SDK of E2B for JavaScript of the first major version. Its module is looked for from the working
// directory, which has it installed.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.cwd(), 'package.json'))
const { CommandExitError, NotFoundError, Sandbox, TimeoutError } = require('e2b')

await assert.rejects(Sandbox.create({ apiKey: 'e2b_0000' }), /401/)
await assert.rejects(Sandbox.create('no-such-template'))
const sandbox = await Sandbox.create({
  metadata: { for: 'a test' },
  envs: { OF_ALL: '1' },
  timeoutMs: 300_000,
})
const run = (text, options) => sandbox.commands.run(text, options)
const result = await run('echo out; echo err >&2; echo $OF_ALL $OWN', { envs: { OWN: '2' } })
assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n1 2\n', 'err\n', 0])
await assert.rejects(run('echo before; exit 7'), (error) => {
  assert(error instanceof CommandExitError)
  assert.deepEqual([error.exitCode, error.stdout], [7, 'before\n'])
  return true
})
assert.equal((await run('pwd', { cwd: '/tmp' })).stdout, '/tmp\n')
assert.equal((await run('id -un', { user: 'root' })).stdout, 'root\n')
await assert.rejects(run('sleep 100', { timeoutMs: 1000 }), TimeoutError)
const head = await run('head -n 1', { background: true })
await sandbox.commands.sendStdin(head.pid, 'typed\n')
assert.equal((await head.wait()).stdout, 'typed\n')
const sleeper = await run('sleep 1000', { background: true })
assert((await sandbox.commands.list()).some((one) => one.pid === sleeper.pid))
await sleeper.disconnect()
const again = await sandbox.commands.connect(sleeper.pid)
assert.equal(await sandbox.commands.kill(sleeper.pid), true)
assert.equal(await sandbox.commands.kill(sleeper.pid), false)
await assert.rejects(again.wait(), CommandExitError)

let printed = ''
const terminal = await sandbox.pty.create({
  rows: 24,
  cols: 80,
  onData: (bytes) => (printed += Buffer.from(bytes).toString()),
})
await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size; exit 3\n'))
await assert.rejects(terminal.wait(), (error) => error.exitCode === 3)
assert.match(printed, /24 80/)

const { files } = sandbox
assert.equal((await files.write('/tmp/a/b.txt', 'text')).path, '/tmp/a/b.txt')
assert.equal(await files.read('/tmp/a/b.txt'), 'text')
const everything = new Uint8Array(1_000_000).map((_, index) => index % 251)
await files.write('/tmp/bytes', everything.buffer)
assert.deepEqual(await files.read('/tmp/bytes', { format: 'bytes' }), everything)
await assert.rejects(files.read('/tmp/nothing'), NotFoundError)
assert.equal(await files.exists('/tmp/nothing'), false)
assert.equal(await files.makeDir('/tmp/d/e'), true)
await files.rename('/tmp/a/b.txt', '/tmp/d/e/f.txt')
assert.deepEqual(
  (await files.list('/tmp/d', { depth: 3 })).map((one) => one.path),
  ['/tmp/d/e', '/tmp/d/e/f.txt']
)
const seen = new Promise((resolve) => {
  files.watchDir('/tmp/d', (event) => resolve(event.name)).then(() => files.write('/tmp/d/g', '1'))
})
assert.equal(await seen, 'g')
await files.remove('/tmp/d')
assert.equal(await files.exists('/tmp/d'), false)
const signed = await sandbox.downloadUrl('/tmp/bytes', { useSignatureExpiration: 60_000 })
assert.deepEqual(new Uint8Array(await (await fetch(signed)).arrayBuffer()), everything)

const [metrics] = await sandbox.getMetrics()
assert(metrics.memUsed > 0 && metrics.memUsed <= metrics.memTotal, JSON.stringify(metrics))
assert.deepEqual((await sandbox.getInfo()).metadata, { for: 'a test' })
const listed = await Sandbox.list({ query: { metadata: { for: 'a test' } } })
assert.deepEqual(listed.map((one) => one.sandboxId), [sandbox.sandboxId])
const same = await Sandbox.connect(sandbox.sandboxId)
assert.equal((await same.commands.run('echo same')).stdout, 'same\n')
await same.setTimeout(100_000)
await same.kill()
assert.equal(await sandbox.isRunning(), false)
assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
await assert.rejects(Sandbox.connect(sandbox.sandboxId))
console.log('all calls are served')
