use proptest::prelude::*;

use super::*;

const RAM_BYTES: u64 = 4 * PAGE_BYTES as u64;

fn name(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn block(text: &str, bytes: u64) -> Vec<u8> {
    [name(text), bytes.to_be_bytes().to_vec(), vec![0; 8]].concat()
}

fn footer() -> Vec<u8> {
    vec![FOOTER, 0, 0, 0, 2]
}

/// Returns everything before the pages, for `bytes` of RAM and a page of firmware.
fn head() -> Vec<u8> {
    let mut head = [MAGIC.to_be_bytes(), VERSION.to_be_bytes()].concat();
    head.push(CONFIGURATION);
    head.extend(7u32.to_be_bytes());
    head.extend(b"microvm");
    head.push(SUBSECTION);
    head.extend(name("configuration/capabilities"));
    head.extend([1u32.to_be_bytes(), 1u32.to_be_bytes()].concat());
    head.extend(name("x-ignore-shared"));
    head.extend([SECTION_START, 0, 0, 0, 2]);
    head.extend(name("ram"));
    head.extend([0, 0, 0, 0, 0, 0, 0, 4]);
    head.extend(((RAM_BYTES + PAGE_BYTES as u64) | MEMORY_SIZE).to_be_bytes());
    head.extend(block("ram", RAM_BYTES));
    head.extend(block("pc.bios", PAGE_BYTES as u64));
    head.extend(END_OF_SECTION.to_be_bytes());
    head.extend(footer());
    head
}

fn section(kind: u8, pages: &[Vec<u8>]) -> Vec<u8> {
    let end = END_OF_SECTION.to_be_bytes().to_vec();
    [vec![kind, 0, 0, 0, 2], pages.concat(), end, footer()].concat()
}

fn page(at: u64, block: Option<&str>, fill: u8) -> Vec<u8> {
    let flags = if fill == 0 { ZERO_PAGE } else { PAGE };
    let same = if block.is_some() { 0 } else { SAME_BLOCK };
    let mut page = (at | flags | same).to_be_bytes().to_vec();
    page.extend(block.map(name).unwrap_or_default());
    page.extend(vec![fill; if fill == 0 { 1 } else { PAGE_BYTES }]);
    page
}

fn of(stream: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let memory = File::create_new(path("memory")).unwrap();
    memory.set_len(RAM_BYTES).unwrap();
    let state = File::create_new(path("state")).unwrap();
    split(stream, RAM_BYTES, &memory, &state)?;
    let read = |name| std::fs::read(path(name)).unwrap();
    Ok((read("memory"), read("state")))
}

#[test]
fn ram_goes_to_its_file_and_the_rest_stays_as_if_ram_had_been_shared() {
    const AT: u64 = PAGE_BYTES as u64;
    let devices = b"\x04devices, which are not looked at";
    let stream = [
        head(),
        section(
            SECTION_PART,
            &[
                page(AT, Some("ram"), 7),
                page(2 * AT, None, 9),
                page(0, Some("pc.bios"), 3),
                page(3 * AT, Some("ram"), 0),
            ],
        ),
        // Continues in the block of the page before.
        section(SECTION_END, &[page(2 * AT, None, 0)]),
        devices.to_vec(),
    ]
    .concat();
    let (memory, state) = of(&stream).unwrap();
    let pages: Vec<u8> = memory.iter().step_by(PAGE_BYTES).copied().collect();
    assert_eq!(pages, [0, 7, 0, 0]);
    let expected = [
        head(),
        section(SECTION_PART, &[page(0, Some("pc.bios"), 3)]),
        section(SECTION_END, &[]),
        devices.to_vec(),
    ];
    assert_eq!(state, expected.concat());
}

#[test]
fn a_page_beyond_ram_and_one_of_no_block_are_refused() {
    for page in [page(RAM_BYTES, Some("ram"), 1), page(0, None, 1)] {
        let stream = [head(), section(SECTION_END, &[page])].concat();
        let error = of(&stream).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_write_beyond_ram_or_panic(
        at in 0..head().len(), bytes in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
        let mut stream = head();
        stream.truncate(at);
        stream.extend(bytes);
        if let Ok((memory, _)) = of(&stream) {
            prop_assert_eq!(memory.len() as u64, RAM_BYTES);
        }
    }
}
