//! Topics, filters, captures and the router, against section 4.7 of the standard and against a naive search.

use proptest::prelude::*;
use proptest::sample::select;
use reqtt_core::error::Error;
use reqtt_core::topic::{Pattern, Router, check_filter, check_topic, filter_part, matches};

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::InvalidTopic { reason, .. }) => reason,
        other => panic!("expected InvalidTopic, got {other:?}"),
    }
}

#[test]
fn a_topic_name_is_not_empty_and_has_no_wildcard_and_no_nul() {
    for topic in ["a", "/", "a/b", " ", "a//b", "$SYS/x", "ä/ö", &"x".repeat(65_535)] {
        check_topic(topic).unwrap();
    }
    assert!(reason(check_topic("")).contains("empty"));
    assert!(reason(check_topic("a/+")).contains("without + and #"));
    assert!(reason(check_topic("a/x#y")).contains("without + and #"));
    assert!(reason(check_topic("a\0b")).contains("NUL"));
    assert!(reason(check_topic(&"x".repeat(65_536))).contains("65536 bytes"));
    assert!(reason(check_topic(&"ä".repeat(32_768))).contains("65536 bytes"));
}

#[test]
fn an_error_shows_a_long_topic_shortened_and_on_one_line() {
    let Err(Error::InvalidTopic { topic, .. }) = check_topic(&"ä".repeat(40_000)) else { panic!() };
    assert_eq!(topic, format!("{}…", "ä".repeat(80)));
    assert_eq!(
        check_topic("a\n\0").unwrap_err().to_string(),
        r#"invalid topic "a\n\u{0}": it contains the NUL character: leave it out"#
    );
}

#[test]
fn a_filter_has_wildcards_as_whole_levels_only() {
    for filter in
        ["a", "+", "#", "a/#", "+/+/#", "/", "//+", "a/+/b", "$SYS/#", "$share", "$shared/+", "+/a/"]
    {
        check_filter(filter).unwrap();
    }
    for filter in ["a+", "a/b+/c", "++", "+a"] {
        assert!(reason(check_filter(filter)).contains("+ stands for"), "{filter}");
    }
    for filter in ["a#", "a/b#", "##", "+#"] {
        let reason = reason(check_filter(filter));
        assert!(reason.contains("stands for"), "{filter}: {reason}");
    }
    for filter in ["#/a", "a/#/b", "#/#", "a/#/"] {
        assert!(reason(check_filter(filter)).contains("# comes last"), "{filter}");
    }
    assert!(reason(check_filter("")).contains("empty"));
    assert!(reason(check_filter("a/\0")).contains("NUL"));
    assert!(reason(check_filter(&"x/".repeat(32_768))).contains("65536 bytes"));
}

#[test]
fn a_shared_filter_has_a_group_and_a_filter() {
    for filter in ["$share/g/a", "$share/g/#", "$share/g/+/x", "$share/g//", "$share/ä b/$SYS/#"] {
        check_filter(filter).unwrap();
    }
    for filter in ["$share/", "$share//a", "$share//"] {
        assert!(reason(check_filter(filter)).contains("group of a shared subscription is empty"), "{filter}");
    }
    for filter in ["$share/g", "$share/g/"] {
        assert!(reason(check_filter(filter)).contains("needs a filter"), "{filter}");
    }
    for filter in ["$share/+/a", "$share/g#/a", "$share/#"] {
        assert!(reason(check_filter(filter)).contains("no wildcard"), "{filter}");
    }
    assert!(reason(check_filter("$share/g/a#")).contains("stands for whole levels"));
    assert_eq!(filter_part("$share/g/a/+"), "a/+");
    assert_eq!(filter_part("$share"), "$share");
    assert_eq!(filter_part("a/b"), "a/b");
}

#[test]
fn matching_follows_the_standards_examples() {
    // Section 4.7.1.2, 4.7.1.3, 4.7.2 and 4.7.3.
    for (filter, topic, expected) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("#", "sport", true),
        ("#", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+/tennis/#", "sport/tennis", true),
        ("#", "$SYS/x", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("a/+", "a/$b", true),
        ("ACCOUNTS", "Accounts", false),
        ("/a", "a", false),
        ("a/", "a", false),
        ("a/+/#", "a/b", true),
        ("a/+/#", "a", false),
        ("$share/g/a/#", "a/b", true),
        ("$share/g/#", "$SYS/x", false),
        ("$share/g/$SYS/#", "$SYS/x", true),
        ("$share/g/a", "$share/g/a", false),
    ] {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        let mut router = Router::new();
        router.insert(filter, ()).unwrap();
        assert_eq!(router.matches(topic), expected, "router: {filter} {topic}");
    }
}

#[test]
fn a_pattern_captures_levels() {
    let pattern = Pattern::parse("cmnd/{device}/power").unwrap();
    assert_eq!((pattern.filter(), pattern.text()), ("cmnd/+/power", "cmnd/{device}/power"));
    assert_eq!(pattern.names().collect::<Vec<_>>(), ["device"]);
    assert_eq!(pattern.captures("cmnd/lamp/power"), Some(vec![("device", "lamp")]));
    assert_eq!(pattern.captures("cmnd//power"), Some(vec![("device", "")]));
    assert_eq!(pattern.captures("cmnd/lamp"), None);

    let pattern = Pattern::parse("{a}/x/{_b2:+}/+/{rest:#}").unwrap();
    assert_eq!(pattern.filter(), "+/x/+/+/#");
    assert_eq!(pattern.captures("1/x/2/3/4/5"), Some(vec![("a", "1"), ("_b2", "2"), ("rest", "4/5")]));
    assert_eq!(pattern.captures("1/x/2/3"), Some(vec![("a", "1"), ("_b2", "2"), ("rest", "")]));
    assert_eq!(pattern.captures("$1/x/2/3"), None);

    let pattern = Pattern::parse("$share/g/x/{rest:#}").unwrap();
    assert_eq!(pattern.filter(), "$share/g/x/#");
    assert_eq!(pattern.captures("x//y/"), Some(vec![("rest", "/y/")]));

    let pattern = Pattern::parse("{all:#}").unwrap();
    assert_eq!(pattern.captures("a/b"), Some(vec![("all", "a/b")]));

    for plain in ["cmnd/+/x", "cmnd/#", "#", "+"] {
        let pattern = Pattern::parse(plain).unwrap();
        assert_eq!((pattern.filter(), pattern.names().count()), (plain, 0));
    }
}

#[test]
fn a_pattern_that_cannot_be_meant_is_refused_with_advice() {
    for (text, expected) in [
        ("", "empty"),
        ("a/{x}/{x}", "{x} is there twice"),
        ("a/{x}/{x:#}", "{x} is there twice"),
        ("a/{1x}", "\"1x\" is no name"),
        ("a/{}", "\"\" is no name"),
        ("a/{ä}", "is no name"),
        ("a/{x y}", "is no name"),
        ("a/{:#}", "is no name"),
        ("a{b}", "whole level"),
        ("{a}b", "whole level"),
        ("{a}{b}", "whole level"),
        ("{{a}}", "whole level"),
        ("{x:#}/a", "{x:#} captures the rest, so it comes last"),
        ("a/{x:int}", "{name:#} for the rest"),
        ("a/{x", "do not pair up"),
        ("a/x}", "do not pair up"),
        ("a/}x{", "do not pair up"),
        ("a/{x/y}", "do not pair up"),
        ("$share/{g}/a", "captures nothing"),
        ("$share//{a}", "group of a shared subscription is empty"),
        ("#/{a}", "# comes last"),
        ("x+/{a}", "+ stands for"),
    ] {
        let reason = reason(Pattern::parse(text));
        assert!(reason.contains(expected), "{text}: {reason}");
    }
    let Err(Error::InvalidTopic { topic, .. }) = Pattern::parse("#/{a}") else { panic!() };
    assert_eq!(topic, "#/{a}", "the error shows what was written");
}

#[test]
fn the_most_specific_filter_wins_and_a_dead_end_falls_back() {
    let mut router = Router::new();
    for filter in ["#", "a/#", "a/+", "a/b", "+/b/c", "a/b/x/y", "+/+/c"] {
        router.insert(filter, filter).unwrap();
    }
    for (topic, expected) in [
        ("a/b", "a/b"),
        ("a/c", "a/+"),
        ("a", "a/#"),
        ("a/b/c", "a/#"), // the literal a is decided before the +
        ("z/b/c", "+/b/c"),
        ("z/z/c", "+/+/c"),
        ("a/b/x/y", "a/b/x/y"),
        ("a/b/x", "a/#"), // a/b/x leads to a/b/x/y only
        ("z", "#"),
        ("z/b/d", "#"),
    ] {
        assert_eq!(router.route(topic), Some(&expected), "{topic}");
    }
    assert_eq!(router.route("$SYS"), None);
    assert_eq!(router.route(""), None);
    assert_eq!(router.matching("a/b").copied().collect::<Vec<_>>(), ["a/b", "a/+", "a/#", "#"]);
}

#[test]
fn the_same_filter_twice_is_an_error_that_names_it() {
    let mut router = Router::new();
    router.insert("a/+", 1).unwrap();
    let error = router.insert("a/+", 2).unwrap_err();
    assert_eq!(error.to_string(), "the filter \"a/+\" is there already: use one for each filter");
    let error = router.insert("$share/g/a/+", 3).unwrap_err();
    assert!(error.to_string().contains("\"$share/g/a/+\" is there already (as \"a/+\")"), "{error}");
    assert!(matches!(router.insert("a/#/b", 4), Err(Error::InvalidTopic { .. })));
    assert_eq!((router.len(), router.route("a/x")), (1, Some(&1)));
    *router.get_mut("a/+").unwrap() = 5;
    assert_eq!(router.remove("a/+"), Some(5));
    assert_eq!(router.remove("a/+"), None);
    router.insert("a/+", 6).unwrap();
    assert_eq!(router.get("a/+"), Some(&6));
}

#[test]
fn a_filter_with_as_many_levels_as_mqtt_allows_needs_no_deep_stack() {
    let (deep, topic) = ("+/".repeat(32_766) + "#", "/".repeat(65_535));
    let mut router = Router::new();
    router.insert(&deep, 1).unwrap();
    router.insert(&"/".repeat(65_535), 2).unwrap();
    assert_eq!(router.matching(&topic).copied().collect::<Vec<_>>(), [2, 1]);
    assert_eq!(router.remove(&deep), Some(1));
    assert_eq!(Pattern::parse(&"/".repeat(65_535)).unwrap().captures(&topic), Some(vec![]));
}

/// What the standard says, level by level, written as differently as possible.
fn naive_matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        ([], _) | (_, []) => false,
        (["+", filter @ ..], [_, topic @ ..]) => naive_matches(filter, topic),
        ([a, filter @ ..], [b, topic @ ..]) => a == b && naive_matches(filter, topic),
    }
}

/// Smaller is more specific.
fn rank(filter: &str) -> Vec<u8> {
    let rank = |level| match level {
        "+" => 1,
        "#" => 2,
        _ => 0,
    };
    filter.split('/').map(rank).collect()
}

fn a_topic() -> impl Strategy<Value = String> {
    proptest::collection::vec(select(vec!["a", "b", "c", "", "$x"]), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn a_filter() -> impl Strategy<Value = String> {
    let levels = proptest::collection::vec(select(vec!["a", "b", "c", "+", "", "+", "$x"]), 0..6);
    (levels, any::<bool>())
        .prop_map(|(mut levels, rest)| {
            levels.extend(rest.then_some("#"));
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matching_agrees_with_the_naive_one(filter in a_filter(), topic in a_topic()) {
        let (filter_levels, levels): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
        let dollar = topic.starts_with('$') && filter.starts_with(['+', '#']);
        prop_assert_eq!(matches(&filter, &topic), !dollar && naive_matches(&filter_levels, &levels));
    }

    #[test]
    fn the_router_agrees_with_a_search_through_all(
        filters in proptest::collection::hash_set(a_filter(), 0..40),
        gone in proptest::collection::vec(any::<bool>(), 40),
        topics in proptest::collection::vec(a_topic(), 1..20),
    ) {
        let mut router = Router::new();
        for filter in &filters {
            router.insert(filter, filter.clone()).unwrap();
        }
        let (removed, kept): (Vec<_>, Vec<_>) = filters.iter().zip(gone).partition(|(_, gone)| *gone);
        for (filter, _) in removed {
            prop_assert_eq!(router.remove(filter), Some(filter.clone()));
        }
        let mut kept: Vec<_> = kept.into_iter().map(|(filter, _)| filter).collect();
        prop_assert_eq!(router.len(), kept.len());
        for topic in topics {
            let mut expected: Vec<_> = kept.iter().copied().filter(|filter| matches(filter, &topic)).collect();
            expected.sort_by_key(|filter| rank(filter));
            prop_assert_eq!(router.route(&topic), expected.first().copied());
            prop_assert_eq!(router.matching(&topic).collect::<Vec<_>>(), expected);
        }
        let mut listed: Vec<_> = router.iter().map(|(filter, value)| { assert_eq!(filter, value); value }).collect();
        listed.sort();
        kept.sort();
        prop_assert_eq!(listed, kept);
    }

    #[test]
    fn every_valid_filter_comes_back_as_it_was(filter in a_filter(), group in "[a-z ä]{1,5}") {
        for filter in [filter.clone(), format!("$share/{group}/{filter}")] {
            prop_assert!(check_filter(&filter).is_ok());
            let pattern = Pattern::parse(&filter).unwrap();
            prop_assert_eq!((pattern.filter(), pattern.text()), (filter.as_str(), filter.as_str()));
            let mut router = Router::new();
            router.insert(&filter, 1).unwrap();
            prop_assert_eq!(router.iter().collect::<Vec<_>>(), [(filter.as_str(), &1)]);
            prop_assert_eq!(router.remove(&filter), Some(1));
            prop_assert!(router.is_empty());
            prop_assert_eq!(router.iter().count(), 0);
        }
    }

    #[test]
    fn captures_are_the_levels_at_their_places(levels in proptest::collection::vec("[a-z]{0,3}", 2..8), rest in 1usize..7) {
        let topic = levels.join("/");
        let rest = rest.min(levels.len());
        let mut pattern: Vec<_> = (0..rest).map(|n| format!("{{c{n}}}")).collect();
        pattern.push("{rest:#}".into());
        let pattern = Pattern::parse(&pattern.join("/")).unwrap();
        let found = pattern.captures(&topic).unwrap();
        for (n, (name, value)) in found[..rest].iter().enumerate() {
            prop_assert_eq!(*name, format!("c{n}"));
            prop_assert_eq!(*value, &levels[n]);
        }
        let expected = levels[rest..].join("/");
        prop_assert_eq!(found[rest], ("rest", expected.as_str()));
    }

    #[test]
    fn no_text_panics(one in "([a+#/{}:$\0ä]|\\$share/|\\PC){0,12}", two in "([a+#/$ä]|\\PC){0,12}") {
        let _ = (check_topic(&one), check_filter(&one), matches(&one, &two), matches(&two, &one));
        if let Ok(pattern) = Pattern::parse(&one) {
            prop_assert!(check_filter(pattern.filter()).is_ok());
            let found = pattern.captures(&two);
            prop_assert_eq!(found.is_some(), matches(pattern.filter(), &two));
        }
        let mut router = Router::new();
        let inserted = router.insert(&one, 1).is_ok();
        prop_assert_eq!(inserted, check_filter(&one).is_ok());
        prop_assert_eq!(router.matches(&two), inserted && matches(&one, &two));
        let _ = (router.get(&two), router.matches(&one));
        prop_assert_eq!(router.remove(&one).is_some(), inserted);
    }
}
