//! The correlation map: one at a time, and against a naive model.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use reqtt_core::correlation::{CorrelationMap, CorrelationSource, Duplicate, Ended, SlotId};

#[test]
fn correlation_data_is_16_base64url_characters_and_never_the_same() {
    let mut source = CorrelationSource::new();
    let all: HashSet<_> = (0..10_000).map(|_| source.next()).collect();
    assert_eq!(all.len(), 10_000);
    let used: HashSet<u8> = all.iter().flatten().copied().collect();
    assert!(used.iter().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(it)));
    assert_eq!(used.len(), 64);
}

#[test]
fn a_response_takes_its_entry_once() {
    let mut map = CorrelationMap::new();
    let id = map.insert(7, b"abc", 100, "x").unwrap();
    assert_eq!((map.find(7, b"abc"), map.find(8, b"abc"), map.find(7, b"ab")), (Some(id), None, None));
    assert_eq!(
        (map.get(id), map.data(id), map.space(id), map.deadline(id)),
        (Some(&"x"), Some(&b"abc"[..]), Some(7), Some(100))
    );
    assert_eq!(map.take(8, b"abc"), None);
    assert_eq!(map.take(7, b"abc"), Some((id, "x")));
    assert_eq!(map.take(7, b"abc"), None);
    assert_eq!(map.ended(7, b"abc"), Some(Ended::Answered));
    assert_eq!(map.ended(8, b"abc"), None);
    assert_eq!((map.get(id), map.data(id)), (None, None));
    assert_eq!(map.get_mut(id), None);
    assert_eq!(map.remove(id), None);
}

#[test]
fn data_in_flight_is_refused_and_the_first_is_unaffected() {
    let mut map = CorrelationMap::new();
    let first = map.insert(1, b"k", 5, 1).unwrap();
    assert_eq!(map.insert(1, b"k", 6, 2), Err(Duplicate { value: 2 }));
    map.insert(2, b"k", 7, 3).unwrap();
    assert_eq!((map.get(first), map.deadline(first), map.len()), (Some(&1), Some(5), 2));
}

#[test]
fn data_of_any_length_is_kept() {
    let mut map = CorrelationMap::new();
    let lengths = [0, 1, 15, 16, 17, 22, 23, 24, 255, 65_535];
    let before = map.bytes();
    let ids: Vec<_> = lengths.iter().map(|&n| map.insert(0, &vec![0xFF; n], 1, n).unwrap()).collect();
    assert!(map.bytes() > before + 65_535);
    for (id, n) in ids.into_iter().zip(lengths) {
        assert_eq!(map.data(id), Some(&vec![0xFF; n][..]));
        assert_eq!(map.take(0, &vec![0xFF; n]), Some((id, n)));
    }
    assert!(map.bytes() < before + 65_535);
}

#[test]
fn a_stale_id_does_not_hit_the_slots_next_entry() {
    let mut map = CorrelationMap::new();
    let old = map.insert(0, b"old", 1, 1).unwrap();
    assert_eq!(map.remove(old), Some(1));
    let new = map.insert(0, b"new", 1, 2).unwrap();
    assert_eq!(old.index, new.index);
    assert_ne!(old, new);
    assert_eq!(map.get(old), None);
    assert_eq!(map.get_mut(old), None);
    assert_eq!(map.remove(old), None);
    assert_eq!(map.remove_as(old, Ended::Cancelled), None);
    assert!(!map.set_deadline(old, 9));
    assert_eq!(map.remove(new), Some(2));
    assert_eq!(SlotId::from_u64(new.to_u64()), new);
    assert_eq!(map.get(SlotId { index: u32::MAX, generation: 0 }), None);
}

#[test]
fn deadlines_expire_in_order_and_not_before_their_time() {
    let mut map = CorrelationMap::new();
    for deadline in [50, 10, 40, 20, 30, 20] {
        map.insert(0, &[deadline as u8, map.len() as u8], deadline, deadline).unwrap();
    }
    let expired = |map: &mut CorrelationMap<u64>, now| {
        let mut order = Vec::new();
        map.expire(now, |_, _, value| order.push(value));
        order
    };
    assert_eq!((map.next_deadline(), expired(&mut map, 9)), (Some(10), vec![]));
    assert_eq!(expired(&mut map, 20), [10, 20, 20]);
    assert_eq!(map.next_deadline(), Some(30));
    assert_eq!(expired(&mut map, u64::MAX), [30, 40, 50]);
    assert_eq!((map.next_deadline(), map.len()), (None, 0));
    assert_eq!(map.ended(0, &[10, 1]), Some(Ended::TimedOut));
}

#[test]
fn a_deadline_can_move() {
    let mut map = CorrelationMap::new();
    let ids: Vec<_> = (0..100u8).map(|n| map.insert(0, &[n], 100, n).unwrap()).collect();
    assert!(map.set_deadline(ids[50], 7));
    assert_eq!((map.next_deadline(), map.deadline(ids[50])), (Some(7), Some(7)));
    assert!(map.set_deadline(ids[50], 200));
    assert_eq!(map.next_deadline(), Some(100));
    let mut last = None;
    map.expire(300, |_, _, value| last = Some(value));
    assert_eq!(last, Some(50));
}

#[test]
fn what_ended_is_remembered_by_how() {
    let mut map = CorrelationMap::new();
    let id = map.insert(0, b"cancelled", 1, ()).unwrap();
    map.remove_as(id, Ended::Cancelled).unwrap();
    let id = map.insert(0, b"not sent", 1, ()).unwrap();
    map.remove(id).unwrap();
    assert_eq!(map.ended(0, b"cancelled"), Some(Ended::Cancelled));
    assert_eq!(map.ended(0, b"not sent"), None);
    // The same key again: its last ending counts, and takes one place only.
    for _ in 0..100 {
        map.insert(0, b"cancelled", 1, ()).unwrap();
        map.take(0, b"cancelled").unwrap();
    }
    assert_eq!(map.ended(0, b"cancelled"), Some(Ended::Answered));
    assert_eq!(map.ended(0, b"never"), None);
}

#[test]
fn the_memory_of_what_ended_is_bounded_and_keeps_the_newest() {
    let mut map = CorrelationMap::new();
    let before = map.bytes();
    let end = |map: &mut CorrelationMap<()>, n: u32| {
        map.insert(0, &n.to_le_bytes(), 1, ()).unwrap();
        map.take(0, &n.to_le_bytes()).unwrap();
    };
    (0..100_000).for_each(|n| end(&mut map, n));
    assert!(before < 4096, "{before}");
    assert!(map.bytes() < before + 64 * 1024 + 64 * 256);
    let known = |from, to: u32| (from..to).filter(|n| map.ended(0, &n.to_le_bytes()).is_some()).count();
    assert_eq!(known(99_900, 100_000), 100);
    assert!(known(97_000, 100_000) > 2_800, "{}", known(97_000, 100_000));
    assert_eq!(known(0, 100_000), 8192);
}

#[test]
fn drain_ends_one_space_or_all_in_the_order_of_deadlines() {
    let mut map = CorrelationMap::new();
    for n in 0..200u32 {
        map.insert(n % 2, &n.to_le_bytes(), u64::from(1000 - n), n).unwrap();
    }
    let mut ended = Vec::new();
    map.drain(Some(1), |_, _, value| ended.push(value));
    assert_eq!(ended, (0..200).rev().filter(|n| n % 2 == 1).collect::<Vec<_>>());
    assert_eq!((map.len(), map.ended(1, &1u32.to_le_bytes())), (100, Some(Ended::Cancelled)));
    ended.clear();
    map.drain(None, |_, _, value| ended.push(value));
    assert_eq!(ended, (0..200).rev().filter(|n| n % 2 == 0).collect::<Vec<_>>());
    assert!(map.is_empty() && map.next_deadline().is_none() && map.iter().next().is_none());
}

#[test]
fn a_pending_entry_takes_less_than_300_bytes_and_a_burst_gives_its_memory_back() {
    let mut map = CorrelationMap::new();
    let empty = map.bytes();
    let burst = 100_000u32;
    let ids: Vec<_> = (0..burst)
        .map(|n| map.insert(0, &[n.to_le_bytes(); 4].concat(), u64::from(n), [0u8; 64]).unwrap())
        .collect();
    let each = (map.bytes() - empty) / burst as usize;
    assert!(each <= 200, "{each} bytes");
    // One in a thousand stays: those pin their own chunks only.
    for (n, id) in ids.iter().enumerate() {
        if n % 1000 != 0 {
            map.remove(*id).unwrap();
        }
    }
    assert!(map.bytes() < empty + 2_000_000, "{}", map.bytes());
    map.expire(u64::MAX, |_, _, _| {});
    assert!(map.bytes() < empty + 200_000, "{}", map.bytes());
    // And what comes next finds no old entry.
    let next = map.insert(0, b"next", 1, [1; 64]).unwrap();
    assert!(ids.iter().all(|id| map.get(*id).is_none()));
    assert_eq!(map.get(next), Some(&[1; 64]));
}

#[derive(Debug, Clone)]
enum Step {
    Insert { space: u32, key: u8, timeout: u64 },
    Take { space: u32, key: u8 },
    Remove { which: prop::sample::Index },
    Cancel { which: prop::sample::Index },
    Move { which: prop::sample::Index, timeout: u64 },
    Expire { after: u64 },
    Drain { space: Option<u32> },
}

fn a_step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        12 => (0..3u32, any::<u8>(), 0..50u64).prop_map(|(space, key, timeout)| Step::Insert { space, key, timeout }),
        4 => (0..3u32, any::<u8>()).prop_map(|(space, key)| Step::Take { space, key }),
        2 => which().prop_map(|which| Step::Remove { which }),
        2 => which().prop_map(|which| Step::Cancel { which }),
        2 => (which(), 0..50u64).prop_map(|(which, timeout)| Step::Move { which, timeout }),
        1 => (0..10u64).prop_map(|after| Step::Expire { after }),
        1 => prop_oneof![9 => (0..3u32).prop_map(Some), 1 => Just(None)].prop_map(|space| Step::Drain { space }),
    ]
}

/// Keys of 0 to 40 bytes: both sides of what lies in the slot.
fn bytes(key: u8) -> Vec<u8> {
    vec![key; usize::from(key) % 41]
}

type Key = (u32, Vec<u8>);

#[derive(Default)]
struct Model {
    pending: HashMap<Key, (u64, SlotId, u64)>,
    ids: Vec<(SlotId, Key)>,
    ended: HashMap<Key, Ended>,
}

impl Model {
    fn alive(&self, id: SlotId) -> Option<(Key, u64)> {
        let (_, key) = self.ids.iter().find(|(other, _)| *other == id)?;
        let (_, at, value) = self.pending.get(key)?;
        (*at == id).then(|| (key.clone(), *value))
    }

    fn sorted(&self, chosen: impl Fn(&Key, u64) -> bool) -> Vec<(u64, SlotId, u64)> {
        let chosen = self.pending.iter().filter(|(key, (deadline, ..))| chosen(key, *deadline));
        let mut chosen: Vec<_> = chosen.map(|(_, it)| *it).collect();
        chosen.sort();
        chosen
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_map_agrees_with_a_naive_model(steps in proptest::collection::vec(a_step(), 1..600)) {
        let (mut map, mut model, mut now, mut value) = (CorrelationMap::new(), Model::default(), 0u64, 0u64);
        for step in steps {
            match step {
                Step::Insert { space, key, timeout } => {
                    value += 1;
                    let key = (space, bytes(key));
                    match map.insert(space, &key.1, now + timeout, value) {
                        Ok(id) => {
                            prop_assert!(model.ids.iter().all(|(other, _)| *other != id));
                            model.ids.push((id, key.clone()));
                            prop_assert_eq!(model.pending.insert(key, (now + timeout, id, value)), None);
                        }
                        Err(duplicate) => {
                            prop_assert_eq!(duplicate.value, value);
                            prop_assert!(model.pending.contains_key(&key));
                        }
                    }
                }
                Step::Take { space, key } => {
                    let key = (space, bytes(key));
                    let expected = model.pending.remove(&key).map(|(_, id, value)| (id, value));
                    prop_assert_eq!(map.find(space, &key.1), expected.map(|(id, _)| id));
                    prop_assert_eq!(map.take(space, &key.1), expected);
                    if expected.is_some() {
                        model.ended.insert(key, Ended::Answered);
                    }
                }
                Step::Remove { which } | Step::Cancel { which } | Step::Move { which, .. } if model.ids.is_empty() => { let _ = which; }
                Step::Remove { which } => {
                    let (id, _) = *which.get(&model.ids.iter().map(|(id, _)| (*id, ())).collect::<Vec<_>>());
                    let expected = model.alive(id);
                    prop_assert_eq!(map.remove(id), expected.as_ref().map(|(_, value)| *value));
                    if let Some((key, _)) = expected {
                        model.pending.remove(&key);
                    }
                }
                Step::Cancel { which } => {
                    let id = model.ids[which.index(model.ids.len())].0;
                    let expected = model.alive(id);
                    prop_assert_eq!(map.remove_as(id, Ended::Cancelled), expected.as_ref().map(|(_, value)| *value));
                    if let Some((key, _)) = expected {
                        model.pending.remove(&key);
                        model.ended.insert(key, Ended::Cancelled);
                    }
                }
                Step::Move { which, timeout } => {
                    let id = model.ids[which.index(model.ids.len())].0;
                    let expected = model.alive(id);
                    prop_assert_eq!(map.set_deadline(id, now + timeout), expected.is_some());
                    if let Some((key, _)) = expected {
                        model.pending.get_mut(&key).unwrap().0 = now + timeout;
                    }
                }
                Step::Expire { after } => {
                    now += after;
                    let expected = model.sorted(|_, deadline| deadline <= now);
                    let (mut found, mut last) = (Vec::new(), 0);
                    map.expire(now, |id, space, value| {
                        let (key, _) = model.alive(id).unwrap();
                        assert_eq!(space, key.0);
                        let (deadline, ..) = model.pending.remove(&key).unwrap();
                        model.ended.insert(key, Ended::TimedOut);
                        assert!(last <= deadline);
                        last = deadline;
                        found.push((deadline, id, value));
                    });
                    found.sort();
                    prop_assert_eq!(found, expected);
                }
                Step::Drain { space } => {
                    let mut expected = model.sorted(|key, _| space.is_none_or(|space| space == key.0));
                    let mut found = Vec::new();
                    map.drain(space, |id, _, value| found.push((id, value)));
                    let order: Vec<_> = found.iter().map(|(id, _)| expected.iter().find(|it| it.1 == *id).unwrap().0).collect();
                    prop_assert!(order.is_sorted());
                    let mut found: Vec<_> = found.into_iter().zip(order).map(|((id, value), deadline)| (deadline, id, value)).collect();
                    for (_, id, _) in &expected {
                        let (key, _) = model.alive(*id).unwrap();
                        model.pending.remove(&key);
                        model.ended.insert(key, Ended::Cancelled);
                    }
                    found.sort();
                    expected.sort();
                    prop_assert_eq!(found, expected);
                }
            }
            prop_assert_eq!(map.len(), model.pending.len());
            prop_assert_eq!(map.next_deadline(), model.pending.values().map(|it| it.0).min());
        }
        for (id, _) in &model.ids {
            prop_assert_eq!(map.get(*id).copied(), model.alive(*id).map(|(_, value)| value));
        }
        for (key, how) in &model.ended {
            prop_assert_eq!(map.ended(key.0, &key.1), Some(*how));
        }
        let entry = |(id, value): (SlotId, &u64)| {
            ((map.space(id).unwrap(), map.data(id).unwrap().to_vec()), (map.deadline(id).unwrap(), id, *value))
        };
        let mut listed: Vec<_> = map.iter().map(entry).collect();
        listed.sort();
        let mut expected: Vec<_> = model.pending.into_iter().collect();
        expected.sort();
        prop_assert_eq!(listed, expected);
    }
}
