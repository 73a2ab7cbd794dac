//! Layers as entries, in tars that are well-formed: what they may do to each
//! other, and to what lies beside the root.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[path = "place.rs"]
mod place;

use place::Place;

#[derive(Debug, Arbitrary)]
struct Entry {
    kind: Kind,
    path: Vec<Word>,
    link: Vec<Word>,
    mode: u16,
    content: u8,
    next_layer: bool,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    File,
    Hard,
    Symbolic,
    Folder,
    Fifo,
    Character,
    Other(u8),
}

#[derive(Debug, Arbitrary)]
enum Word {
    A,
    B,
    C,
    Up,
    Here,
    Top,
    Outside,
    Root,
    File,
    Whiteout,
    WhiteoutUp,
    Opaque,
    Place,
    Odd(u8),
}

fn path(words: &[Word], place: &str) -> String {
    let mut path = String::new();
    for (at, word) in words.iter().take(8).enumerate() {
        if at > 0 {
            path.push('/');
        }
        match word {
            Word::A => path.push('a'),
            Word::B => path.push('b'),
            Word::C => path.push('c'),
            Word::Up => path.push_str(".."),
            Word::Here => path.push('.'),
            Word::Top => path.push('/'),
            Word::Outside => path.push_str("outside"),
            Word::Root => path.push_str("root"),
            Word::File => path.push_str("file"),
            Word::Whiteout => path.push_str(".wh.a"),
            Word::WhiteoutUp => path.push_str(".wh..."),
            Word::Opaque => path.push_str(".wh..wh..opq"),
            Word::Place => path.push_str(place),
            Word::Odd(byte) => path.push(char::from(*byte)),
        }
    }
    path
}

/// One entry as ustar has it: 512 bytes of header, and its content.
fn append(tar: &mut Vec<u8>, entry: &Entry, place: &str) {
    let mut header = [0; 512];
    let mut put = |at: usize, most: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(most)];
        header[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let (kind, size) = match entry.kind {
        Kind::File => (b'0', usize::from(entry.content)),
        Kind::Hard => (b'1', 0),
        Kind::Symbolic => (b'2', 0),
        Kind::Character => (b'3', 0),
        Kind::Folder => (b'5', 0),
        Kind::Fifo => (b'6', 0),
        Kind::Other(byte) => (byte, usize::from(entry.content)),
    };
    put(0, 100, path(&entry.path, place).as_bytes());
    put(100, 7, format!("{:07o}", entry.mode & 0o7777).as_bytes());
    put(108, 7, b"0000000");
    put(116, 7, b"0000000");
    put(124, 11, format!("{size:011o}").as_bytes());
    put(136, 11, b"00000000000");
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, path(&entry.link, place).as_bytes());
    put(257, 8, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
    tar.extend(std::iter::repeat_n(b'x', size.next_multiple_of(512)));
}

fuzz_target!(|entries: Vec<Entry>| {
    let place = Place::new();
    let name = place.path().to_str().expect("ours").to_owned();
    let mut layers = vec![Vec::new()];
    for entry in entries.iter().take(40) {
        if entry.next_layer && layers.len() < 4 {
            layers.push(Vec::new());
        }
        append(layers.last_mut().expect("one at least"), entry, &name);
    }
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    image::fuzzing::unpack(&layers, &place.root(), &place.trash(), &place::limits());
    place.check();
});
