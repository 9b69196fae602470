//! Real files, a model beside them, and what is left of them after a kill or a loss of power.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::adapter::image::locked::Effect;
use crate::adapter::image::qcow2::Qcow2;
#[cfg(feature = "peers")]
use crate::adapter::image::qcow2::peers;
use crate::port::Blocks;

const WAIT: Duration = Duration::from_secs(10);

/// The part of the disk that the tests write to: around the end of what its first table covers, up to the disk's end.
const BASE: u64 = (512 << 20) - 5 * CLUSTER;
const LENGTH: u64 = 9 * CLUSTER + 1536;

/// A folder with an image in it.
pub(super) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::empty(BASE + LENGTH)
    }

    pub(super) fn empty(capacity: u64) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.create(capacity).unwrap();
        bench
    }

    /// A folder with this image in it.
    fn of(image: &[u8]) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(bench.path(), image).unwrap();
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk.qcow2")
    }

    fn confine(&self) -> Confine {
        Confine::new([self.folder.path().to_owned()])
    }

    fn create(&self, capacity: u64) -> Result<(), PortError> {
        Qcow2Disk::create(&self.confine(), &self.path(), capacity, WAIT)
    }

    pub(super) fn open(&self) -> Result<Qcow2Disk, PortError> {
        Qcow2Disk::open(&self.confine(), self.path(), WAIT)
    }

    /// Reads the part of the disk that the tests write to, by the reader.
    fn seen(&self) -> Vec<u8> {
        let disk = Qcow2::open(&self.confine(), &self.path()).unwrap();
        assert_eq!(disk.size(), BASE + LENGTH);
        let zeros = disk.extents(0, BASE).unwrap();
        assert!(zeros.iter().all(|extent| extent.content == crate::extent::Content::Zero));
        let mut bytes = vec![0xaa; index(LENGTH)];
        disk.read(BASE, &mut bytes).unwrap();
        bytes
    }

    /// Says what is wrong with the refcounts, which the reader never looks at: how many clusters are lost, and how many are
    /// used without being counted.
    pub(super) fn refcounts(&self) -> (usize, usize) {
        let image = fs::read(self.path()).unwrap();
        let word = |at: usize| super::super::layout::u64_at(&image, at) & !(1 << 63);
        let mut used = BTreeSet::from([0, 1, 3]);
        let mut counted = BTreeSet::new();
        for (nth, block) in (0..ENTRIES).map(|nth| (nth, word(CLUSTER_BYTES + 8 * nth))) {
            if block != 0 {
                assert!(used.insert(index(block) / CLUSTER_BYTES));
                let counts = image[index(block)..][..CLUSTER_BYTES].chunks(2).enumerate();
                let counts = counts.filter(|(_, count)| *count != [0, 0]);
                counted.extend(counts.map(|(at, _)| nth * CLUSTER_BYTES / 2 + at));
            }
        }
        for table in (0..ENTRIES).map(|nth| index(word(3 * CLUSTER_BYTES + 8 * nth))) {
            if table != 0 {
                assert!(used.insert(table / CLUSTER_BYTES));
                for place in (0..ENTRIES).map(|nth| index(word(table + 8 * nth))) {
                    assert!(place == 0 || used.insert(place / CLUSTER_BYTES));
                }
            }
        }
        (counted.difference(&used).count(), used.difference(&counted).count())
    }
}

fn read(disk: &Qcow2Disk) -> Vec<u8> {
    let mut bytes = vec![0xaa; index(LENGTH)];
    disk.read(BASE, &mut bytes).unwrap();
    bytes
}

fn text<T>(result: Result<T, PortError>) -> String {
    result.err().expect("it fails").fault.text
}

#[test]
fn an_image_is_made_once_and_never_over_something_else() {
    let bench = Bench::new();
    assert_eq!(bench.refcounts(), (0, 0));
    assert_eq!(bench.seen(), vec![0; index(LENGTH)]);
    bench.open().unwrap().write(BASE, b"x").unwrap();
    let before = fs::read(bench.path()).unwrap();
    bench.create(BASE + LENGTH).unwrap();
    assert!(fs::read(bench.path()).unwrap() == before);
    assert!(text(bench.create(512)).contains("something else stands there"));
    for zeros in [1, 4096, 1 << 20] {
        fs::write(bench.path(), vec![0; zeros]).unwrap();
        assert!(text(bench.create(512)).contains("something else stands there"), "{zeros}");
    }
    // A creation that did not come to the header.
    fs::write(bench.path(), vec![0; 4 * CLUSTER_BYTES]).unwrap();
    bench.create(BASE + LENGTH).unwrap();
    assert_eq!(bench.seen(), vec![0; index(LENGTH)]);
    for capacity in [513, CAPACITY_MAX.0 + 512, u64::MAX] {
        let refused = text(bench.create(capacity));
        assert!(refused.contains("only whole sectors and at most 8.0 TiB"), "{refused}");
    }
    for capacity in [0, CAPACITY_MAX.0] {
        fs::remove_file(bench.path()).unwrap();
        bench.create(capacity).unwrap();
        let disk = bench.open().unwrap();
        disk.zero(0, capacity).unwrap();
        assert!(disk.is_hole(0, capacity).unwrap());
        disk.sync().unwrap();
    }
}

#[test]
fn an_image_that_is_not_ours_is_refused() {
    let bench = Bench::new();
    let whole = {
        let disk = bench.open().unwrap();
        disk.write(BASE, &vec![7; CLUSTER_BYTES]).unwrap();
        disk.sync().unwrap();
        fs::read(bench.path()).unwrap()
    };
    let at = |cluster: usize| cluster * CLUSTER_BYTES;
    let l2 = super::super::layout::u64_at(&whole, at(3)) & !(1 << 63);
    let changes: [(usize, u64); 11] = [
        (0, 0),
        (24, CAPACITY_MAX.0 + 512),
        (40, 4 << 16),
        (48, 2 << 16),
        (56, (1 << 32) | 1),
        (80, 1),
        (at(1), 7),
        (at(3), 1 << 40),
        (at(3), 3 << 16),
        (index(l2), 4 << 16 | 1),
        (index(l2), 4 << 16 | 1 << 62),
    ];
    for (place, value) in changes {
        let mut image = whole.clone();
        image[place..place + 8].copy_from_slice(&value.to_be_bytes());
        let refused = text(Bench::of(&image).open());
        assert!(refused.contains("is not the image that ferry made"), "{place}: {refused}");
    }
    let twice = index(l2);
    let mut image = whole.clone();
    image.copy_within(twice + 8187 * 8..twice + 8188 * 8, twice);
    assert!(text(Bench::of(&image).open()).contains("an entry"));
    assert_eq!(read(&Bench::of(&whole).open().unwrap())[..CLUSTER_BYTES], vec![7; CLUSTER_BYTES]);
}

#[test]
fn nothing_lies_behind_the_end_and_the_image_is_locked() {
    let bench = Bench::new();
    let disk = bench.open().unwrap();
    let end = BASE + LENGTH;
    assert!(text(disk.read(end - 1, &mut [0; 2])).contains("cannot read"));
    assert!(text(disk.write(end, &[0])).contains("cannot write"));
    assert!(disk.zero(end, 1).is_err() && disk.zero(u64::MAX, 2).is_err());
    assert!(!disk.is_hole(0, end + 1).unwrap());
    let short = disk.read(end, &mut [0]).unwrap_err().fault.remedy;
    assert!(short.contains("became shorter"), "{short}");
    let other = Qcow2Disk::open(&bench.confine(), bench.path(), Duration::ZERO);
    assert!(text(other).contains("is in use by"));
    disk.write_map(3, b"map").unwrap();
    assert_eq!(disk.read_map().unwrap(), b"\0\0\0map");
}

#[test]
fn threads_write_side_by_side() {
    let bench = Bench::new();
    let disk = bench.open().unwrap();
    let fill = |nth: u64| u8::try_from(nth + 1).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let disk = &disk;
            scope.spawn(move || {
                for nth in (thread..9).step_by(3) {
                    disk.write(BASE + nth * CLUSTER, &vec![fill(nth); CLUSTER_BYTES]).unwrap();
                    let mut back = vec![0; CLUSTER_BYTES];
                    disk.read(BASE + nth * CLUSTER, &mut back).unwrap();
                    assert_eq!(back, vec![fill(nth); CLUSTER_BYTES]);
                    // Parts of one cluster, by all of them.
                    let part = BASE + 9 * CLUSTER + thread * 512;
                    disk.write(part, &[fill(thread); 512]).unwrap();
                    if nth == 4 {
                        disk.sync().unwrap();
                    }
                }
            });
        }
    });
    disk.sync().unwrap();
    let bytes = bench.seen();
    for (nth, cluster) in (0..9).zip(bytes.chunks(CLUSTER_BYTES)) {
        assert!(cluster.iter().all(|byte| *byte == fill(nth)), "{nth}");
    }
    for (nth, part) in (0..3).zip(bytes[9 * CLUSTER_BYTES..].chunks(512)) {
        assert!(part.iter().all(|byte| *byte == fill(nth)), "{nth}");
    }
    assert_eq!(bench.refcounts(), (0, 0));
}

/// What happens to a disk.
#[derive(Clone, Debug)]
enum Step {
    Write(Range<u64>, u8),
    Zero(Range<u64>),
    ZeroAll,
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let whole = (0_u64..9, 1_u64..4)
        .prop_map(|(first, count)| first * CLUSTER..((first + count) * CLUSTER).min(LENGTH));
    let part = (0..LENGTH / 512, 1_u64..200)
        .prop_map(|(first, count)| first * 512..((first + count) * 512).min(LENGTH));
    let range = prop_oneof![3 => whole, 1 => part];
    let step = prop_oneof![
        6 => (range.clone(), 1_u8..).prop_map(|(range, fill)| Step::Write(range, fill)),
        2 => range.prop_map(Step::Zero),
        1 => Just(Step::ZeroAll),
        3 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

/// What was done to the file, and what the disk held meanwhile.
struct Story {
    start: Vec<u8>,
    effects: Vec<Effect>,
    /// What the disk held after each step, and how many effects there were before the step.
    held: Vec<(usize, Vec<u8>)>,
    /// Which of those were durable, and after how many effects.
    durable: Vec<(usize, usize)>,
}

/// Does the steps, and compares each with the model.
fn tell(bench: &Bench, steps: &[Step]) -> Story {
    let start = fs::read(bench.path()).unwrap();
    let log = |disk: Qcow2Disk| {
        *disk.files.log.lock().unwrap() = Some(Vec::new());
        disk
    };
    let mut model = vec![0; index(LENGTH)];
    let mut disk = log(bench.open().unwrap());
    let mut story =
        Story { start, effects: Vec::new(), held: vec![(0, model.clone())], durable: vec![(0, 0)] };
    for step in steps {
        let before = story.effects.len();
        let part = |range: &Range<u64>| index(range.start)..index(range.end);
        match step {
            Step::Write(range, fill) => {
                model[part(range)].fill(*fill);
                disk.write(BASE + range.start, &model[part(range)]).unwrap();
            }
            Step::Zero(range) => {
                model[part(range)].fill(0);
                disk.zero(BASE + range.start, range.end - range.start).unwrap();
                let whole =
                    range.start.is_multiple_of(CLUSTER) && range.end.is_multiple_of(CLUSTER);
                let hole = disk.is_hole(BASE + range.start, range.end - range.start).unwrap();
                assert!(hole || !whole);
            }
            Step::ZeroAll => {
                model.fill(0);
                disk.zero(0, BASE + LENGTH).unwrap();
                assert!(disk.is_hole(0, BASE + LENGTH).unwrap());
            }
            Step::Sync => disk.sync().unwrap(),
            Step::Reopen => {
                disk.sync().unwrap();
                story.effects.extend(disk.files.log.lock().unwrap().take().unwrap());
                drop(disk);
                assert_eq!(bench.refcounts(), (0, 0));
                assert!(bench.seen() == model);
                disk = log(bench.open().unwrap());
            }
        }
        assert!(read(&disk) == model, "{step:?}");
        story.effects.append(disk.files.log.lock().unwrap().as_mut().unwrap());
        story.held.push((before, model.clone()));
        if matches!(step, Step::Sync | Step::Reopen) {
            story.durable.push((story.held.len() - 1, story.effects.len()));
        }
    }
    story
}

/// What storage has of a file after so many effects: everything up to the last sync, and of each write since what `keeps`
/// says, in sectors.
fn left(story: &Story, count: usize, mut keeps: impl FnMut(usize) -> Range<usize>) -> Vec<u8> {
    let effects = &story.effects[..count];
    let synced = effects.iter().rposition(|effect| matches!(effect, Effect::Sync)).unwrap_or(0);
    let mut image = story.start.clone();
    for (nth, effect) in effects.iter().enumerate() {
        let Effect::Write(at, bytes) = effect else { continue };
        let sectors = bytes.len().div_ceil(512);
        let kept = if nth < synced { 0..sectors } else { keeps(sectors) };
        let kept = (kept.start * 512).min(bytes.len())..(kept.end * 512).min(bytes.len());
        let at = index(*at);
        if image.len() < at + kept.end {
            image.resize(at + kept.end, 0);
        }
        image[at + kept.start..at + kept.end].copy_from_slice(&bytes[kept]);
    }
    image
}

/// Checks what is left: nothing is used without being counted, every sector holds what it held at the last sync or since, and
/// the next sync corrects what was lost.
fn check_left(story: &Story, count: usize, image: &[u8]) {
    let bench = Bench::of(image);
    #[cfg(feature = "peers")]
    assert!(matches!(peers::check(&bench.path()), Some(0 | 3)), "after {count} effects");
    let (_, uncounted) = bench.refcounts();
    assert_eq!(uncounted, 0, "after {count} effects");
    let seen = bench.seen();
    let (durable, _) = story.durable.iter().rfind(|(_, after)| *after <= count).unwrap();
    let mut possible: Vec<&[u8]> = vec![&story.held[*durable].1];
    let since = story.held[durable + 1..].iter().take_while(|(before, _)| *before <= count);
    possible.extend(since.map(|(_, held)| held.as_slice()));
    for (nth, sector) in seen.chunks(512).enumerate() {
        let held = possible.iter().any(|held| &held[nth * 512..][..sector.len()] == sector);
        assert!(held, "sector {nth} after {count} effects");
    }
    let disk = bench.open().unwrap();
    assert!(read(&disk) == seen);
    disk.write(BASE, &vec![0xcc; 3 * CLUSTER_BYTES]).unwrap();
    disk.sync().unwrap();
    drop(disk);
    assert_eq!(bench.refcounts(), (0, 0));
    #[cfg(feature = "peers")]
    assert_eq!(peers::check(&bench.path()), Some(0));
    let again = bench.seen();
    assert!(again[..3 * CLUSTER_BYTES].iter().all(|byte| *byte == 0xcc));
    assert!(again[3 * CLUSTER_BYTES..] == seen[3 * CLUSTER_BYTES..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_disk_is_what_was_written_and_survives_every_crash(
        steps in steps(),
        crashes in prop::collection::vec(any::<prop::sample::Index>(), 4),
        luck in any::<u64>(),
    ) {
        let bench = Bench::new();
        let story = tell(&bench, &steps);
        let mut random = blake3::Hasher::new().update(&luck.to_le_bytes()).finalize_xof();
        let mut number = |most: usize| {
            let mut bytes = [0; 4];
            random.fill(&mut bytes);
            usize::try_from(u32::from_le_bytes(bytes)).unwrap() % most
        };
        for crash in crashes {
            let count = crash.index(story.effects.len() + 1);
            // A kill: the kernel has everything that was written.
            check_left(&story, count, &left(&story, count, |sectors| 0..sectors));
            // A loss of power: storage has any part of what was not synced.
            let image = left(&story, count, |sectors| match number(4) {
                0 => 0..0,
                1 => 0..sectors,
                2 => 0..number(sectors + 1),
                _ => number(sectors)..sectors,
            });
            check_left(&story, count, &image);
        }
    }
}

#[test]
fn a_sync_that_failed_never_succeeds_again() {
    let bench = Bench::new();
    let mut disk = bench.open().unwrap();
    disk.write(BASE, &vec![1; CLUSTER_BYTES]).unwrap();
    let path = bench.path();
    let read_only = File::open(&path).unwrap();
    let map = tempfile::tempfile().unwrap();
    disk.files = LockedDisk::of(path, read_only, "map".into(), map);
    // What is not written leaves no place behind.
    assert!(disk.write(BASE + CLUSTER, &vec![2; CLUSTER_BYTES]).is_err());
    assert!(disk.write(BASE + 4 * CLUSTER, &[2; 512]).is_err());
    assert!(disk.is_hole(BASE + CLUSTER, CLUSTER).unwrap());
    assert!(disk.is_hole(BASE + 4 * CLUSTER, CLUSTER).unwrap());
    assert!(text(disk.sync()).contains("cannot write"));
    assert!(text(disk.sync()).contains("an earlier sync failed"));
    drop(disk);
    assert_eq!(bench.seen(), vec![0; index(LENGTH)]);
}

#[test]
fn clusters_stand_in_order_and_what_is_given_up_is_used_again() {
    let bench = Bench::new();
    let disk = bench.open().unwrap();
    disk.write(BASE, &vec![1; 5 * CLUSTER_BYTES]).unwrap();
    disk.sync().unwrap();
    let runs = disk.state().places(BASE / CLUSTER, 5, &disk.files).unwrap().0;
    assert_eq!(runs, [Range { start: 4, end: 9 }]);
    let length = disk.files.length().unwrap();
    for _ in 0..4 {
        disk.zero(0, BASE + LENGTH).unwrap();
        disk.sync().unwrap();
        disk.write(BASE, &vec![1; 5 * CLUSTER_BYTES]).unwrap();
        disk.sync().unwrap();
    }
    assert_eq!(disk.files.length().unwrap(), length);
    assert_eq!(bench.refcounts(), (0, 0));
}
