//! A deterministic simulation of the core: sessions with their requesters and responders, on a simulated
//! network, with a simulated broker, in virtual time. Nothing sleeps, and all that happens comes from a seed.
//!
//! `make simulate SEEDS=100000` runs that many worlds instead of the usual number; `REQTT_SEED=17 cargo test -p
//! reqtt-core simulation` one of them, with its trace if it fails.

mod broker;
mod checks;
mod client;
mod network;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use fastrand::Rng;

use self::broker::Broker;
use self::checks::Ledger;
use self::client::{Act, Client, Plan};
use self::network::{Direction, MS, Network, SECOND, Time};
use crate::command::Token;

/// What the seed breaks.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A connection ends at once.
    Cut(usize),
    /// It ends after so many more bytes.
    CutAfter(usize, Direction, usize),
    /// It goes on, but nothing arrives.
    Silence(usize),
    /// It gets slow.
    Slow(usize, Time),
    /// The socket takes nothing for a while.
    Stall(usize, Time),
    /// The process gets no time for a while.
    Hold(usize, Time),
    /// The process dies; silently, if its host does.
    Crash(usize, bool),
    /// The broker dies; `true`: it remembers its sessions.
    BrokerCrash(bool, Time),
    /// The broker refuses CONNECT for a while.
    Busy(Time),
}

#[derive(Debug, Clone)]
enum Happening {
    Client(usize, u32, Act),
    Fault(Fault),
    BrokerStart,
    /// Nothing breaks any more.
    Heal,
    /// All has calmed down.
    Rest,
    Inspect,
    End,
}

/// All but the clients.
struct World {
    now: Time,
    origin: Instant,
    rng: Rng,
    network: Network,
    broker: Broker,
    ledger: Ledger,
    agenda: BTreeMap<(Time, u64), Happening>,
    planned: u64,
    healed: bool,
    /// What ends now is not begun again.
    ending: bool,
    /// Subscriptions in force, whose they are, and their QoS.
    readers: BTreeMap<Token, (usize, u8)>,
}

impl World {
    fn schedule(&mut self, at: Time, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), happening);
    }

    /// Something that a client's process does, if it still lives then.
    fn plan(&mut self, at: Time, client: usize, process: u32, act: Act) {
        self.schedule(at, Happening::Client(client, process, act));
    }
}

struct Simulation {
    world: World,
    clients: Vec<Client>,
}

/// From the healing on: the longest timeout is over, the last keep alive has failed, the last backoff ended.
const REST: Time = 100 * SECOND;

impl Simulation {
    fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = World {
            now: 0,
            origin: Instant::now(),
            network: Network::new(rng.fork()),
            broker: Broker::new(rng.fork()),
            ledger: Ledger::new(traced),
            agenda: BTreeMap::new(),
            planned: 0,
            healed: false,
            ending: false,
            readers: BTreeMap::new(),
            rng: rng.fork(),
        };
        let clients = (0..rng.usize(2..=5)).map(|index| Client::new(index, Plan::new(index, &mut rng)));
        let mut simulation = Self { clients: clients.collect(), world };
        simulation.write_agenda(&mut rng);
        simulation
    }

    fn write_agenda(&mut self, rng: &mut Rng) {
        let (world, clients) = (&mut self.world, self.clients.len());
        let chaos = rng.u64(2..30) * SECOND;
        for client in 0..clients {
            world.plan(rng.u64(..SECOND), client, 0, Act::Start);
        }
        for _ in 0..rng.usize(5..90) {
            let act = match rng.u8(..24) {
                0..=16 => Act::Request,
                17..=20 => Act::Publish,
                21 => Act::Unsubscribe,
                22 => Act::ReopenRequester,
                _ => Act::Drain,
            };
            // In bursts, now and then: that is when limits are reached.
            let (at, client) = (rng.u64(..chaos), rng.usize(..clients));
            let times = if rng.u8(..6) == 0 { rng.usize(2..8) } else { 1 };
            for _ in 0..times {
                world.schedule(at, Happening::Client(client, u32::MAX, act.clone()));
            }
        }
        for _ in 0..rng.usize(..20) {
            let client = rng.usize(..clients);
            let fault = match rng.u8(..18) {
                0..=2 => Fault::Cut(client),
                3..=6 => {
                    let direction = if rng.bool() { Direction::Up } else { Direction::Down };
                    Fault::CutAfter(client, direction, rng.usize(..400))
                }
                7 | 8 => Fault::Silence(client),
                9 => Fault::Slow(client, rng.u64(50..1500) * MS),
                10 => Fault::Stall(client, rng.u64(..4) * SECOND),
                11 => Fault::Hold(client, rng.u64(..2000) * MS),
                12 | 13 => Fault::Crash(client, rng.bool()),
                14..=16 => Fault::BrokerCrash(rng.bool(), rng.u64(..5 * SECOND)),
                _ => Fault::Busy(rng.u64(..2 * SECOND)),
            };
            world.schedule(rng.u64(..chaos), Happening::Fault(fault));
        }
        world.schedule(chaos, Happening::Heal);
        let mut at = chaos + REST;
        world.schedule(at - 1, Happening::Rest);
        for round in 0..3 {
            for client in 0..clients {
                let probe = Act::Probe(rng.u8(..3));
                world.schedule(at + round * SECOND, Happening::Client(client, u32::MAX, probe));
            }
        }
        for act in [Act::WindUp, Act::Disconnect] {
            at += 40 * SECOND;
            if matches!(act, Act::Disconnect) {
                world.schedule(at - 1, Happening::Inspect);
            }
            for client in 0..clients {
                world.schedule(at, Happening::Client(client, u32::MAX, act.clone()));
            }
        }
        world.schedule(at + SECOND, Happening::End);
    }

    /// Runs the world to its end, or to the first violation.
    fn run(&mut self) {
        let mut standing = 0;
        loop {
            let world = &self.world;
            let planned = world.agenda.keys().next().map(|(at, _)| *at);
            let due = self.clients.iter().filter_map(|client| client.due(world));
            let Some(next) = due.chain(planned).chain(world.broker.due(&world.network)).min() else { return };
            standing = if next > world.now { 0 } else { standing + 1 };
            self.world.now = next.max(world.now);
            self.world.ledger.now = self.world.now;
            if standing > 5000 {
                self.world.ledger.fail("time stands still: somebody is always due".into());
            }
            while let Some(entry) = self.world.agenda.first_entry().filter(|it| it.key().0 <= self.world.now)
            {
                match entry.remove() {
                    Happening::End => return self.world.ledger.finish(),
                    happening => self.happen(happening),
                }
            }
            let world = &mut self.world;
            let first = world.rng.usize(..self.clients.len());
            let broker_at = world.rng.usize(..=self.clients.len());
            let count = self.clients.len() + 1;
            for turn in 0..count {
                if turn == broker_at {
                    world.broker.turn(&mut world.network, &mut world.ledger, world.now);
                }
                if let Some(client) = self.clients.get_mut((first + turn) % count)
                    && client.due(world).is_some_and(|due| due <= world.now)
                {
                    client.turn(world);
                }
            }
            if self.world.ledger.violation.is_some() {
                return;
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        let world = &mut self.world;
        let now = world.now;
        match happening {
            Happening::Client(client, process, act) => {
                let client = &mut self.clients[client];
                if process == u32::MAX || process == client.number {
                    client.act(act, world);
                }
            }
            Happening::Fault(fault) => {
                world.ledger.note(|| format!("{fault:?}"));
                self.break_something(fault);
            }
            Happening::BrokerStart => {
                world.ledger.note(|| "the broker is up".into());
                world.broker.up = true;
            }
            Happening::Heal => {
                world.ledger.note(|| "nothing breaks any more".into());
                world.healed = true;
                world.broker.up = true;
                world.broker.busy_until = 0;
                world.network.heal();
                for client in &mut self.clients {
                    client.stall(now);
                    client.unstick(now);
                    world.plan(now, client.index, client.number, Act::Start);
                }
            }
            Happening::Rest => world.ledger.rest(),
            Happening::Inspect => {
                for client in &self.clients {
                    client.inspect(world);
                }
            }
            Happening::End => {}
        }
    }

    fn break_something(&mut self, fault: Fault) {
        let world = &mut self.world;
        let now = world.now;
        match fault {
            Fault::Crash(client, silently) => {
                let client = &mut self.clients[client];
                client.die(world, silently);
                let at = now + world.rng.u64(..3 * SECOND);
                world.plan(at, client.index, client.number, Act::Start);
            }
            Fault::BrokerCrash(persistent, pause) => {
                if !world.broker.up {
                    return;
                }
                world.broker.crash(persistent, &mut world.network, now);
                world.schedule(now + pause, Happening::BrokerStart);
            }
            Fault::Busy(pause) => world.broker.busy_until = now + pause,
            Fault::Hold(client, pause) => {
                self.clients[client].held_until = now + pause;
                world.ledger.held.insert(client, now + pause);
            }
            Fault::Stall(client, pause) => self.clients[client].stall(now + pause),
            Fault::Cut(client)
            | Fault::CutAfter(client, ..)
            | Fault::Silence(client)
            | Fault::Slow(client, _) => {
                let Some(link) = self.clients[client].link() else { return };
                match fault {
                    Fault::CutAfter(_, direction, bytes) => world.network.cut_after(link, direction, bytes),
                    Fault::Silence(_) => world.network.silence(link),
                    Fault::Slow(_, latency) => world.network.slow_down(link, latency),
                    _ => world.network.cut(link, now),
                }
            }
        }
    }
}

/// One world; a panic of the core is a violation like any other.
fn simulate(seed: u64, traced: bool) -> Ledger {
    let mut simulation = Simulation::new(seed, traced);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| simulation.run())) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        simulation.world.ledger.fail(format!("panic: {text}"));
    }
    simulation.world.ledger
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_promise_is_kept_in_every_world() {
    let seeds = match variable("REQTT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("REQTT_SEEDS").unwrap_or(1000),
    };
    let (mut responses, mut timeouts, mut failures) = (0, 0, Vec::new());
    let worlds = seeds.end - seeds.start;
    for seed in seeds {
        let ledger = simulate(seed, false);
        responses += ledger.responses;
        timeouts += ledger.timeouts;
        if let Some(violation) = ledger.violation {
            failures.push((seed, violation));
            if failures.len() == 10 {
                break;
            }
        }
    }
    if let Some((seed, _)) = failures.first() {
        for line in simulate(*seed, true).trace.unwrap_or_default() {
            println!("{line}");
        }
        let list: Vec<String> = failures.iter().map(|(seed, why)| format!("seed {seed}: {why}")).collect();
        panic!("{}\nagain: REQTT_SEED={seed}", list.join("\n"));
    }
    if worlds > 1 {
        assert!(responses > 5 * worlds && timeouts > worlds, "{responses} responses, {timeouts} timeouts");
    }
    println!("{worlds} worlds: {responses} responses, {timeouts} timeouts");
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    for seed in 0..20 {
        assert_eq!(simulate(seed, true).trace, simulate(seed, true).trace, "seed {seed}");
    }
}
