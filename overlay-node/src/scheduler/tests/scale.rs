//! A thousand nodes and ten thousand tasks. Run with `--release -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::world::{World, replicated};
use crate::scheduler::{HISTORY_MAX, View};

#[test]
#[ignore = "measures; run it in release"]
fn ten_thousand_tasks_on_a_thousand_nodes() {
    for (services, replicas, zones) in [(1, 10_000, 0), (1, 10_000, 10), (100, 100, 10)] {
        let mut world = World::new(1_000);
        for number in 1..=1_000_u32 {
            if zones > 0 {
                world.label(number, &format!("zone-{}", number % zones));
            }
        }
        for number in 0..services {
            let mut spec = replicated(replicas);
            if zones > 0 {
                spec.placement.preferences = vec!["spread=node.labels.zone".into()];
                spec.placement.constraints = vec!["node.role==worker".into()];
            }
            world.add_service(number, spec);
        }
        let (place, plans, longest) = measure(&mut world);
        world.converge();
        assert_eq!(world.tasks.len(), 10_000);
        let most = (0..services).map(|number| {
            let spread = world.spread(super::world::service(number));
            let (least, most) = (spread.values().min(), spread.values().max());
            most.unwrap() - least.unwrap()
        });
        assert!(most.max() <= Some(1));
        let (quiet, _, _) = measure(&mut world);
        world.fail_node(500);
        let (replace, _, _) = measure(&mut world);
        println!(
            "{services} × {replicas}, {zones} zones: placed in {place:?} ({plans} plans, the longest {longest:?}), \
             a plan without changes {quiet:?}, one lost node {replace:?}"
        );
    }
}

/// Plans until there is nothing more to change; the time is the scheduler's alone.
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn measure(world: &mut World) -> (Duration, u32, Duration) {
    let (mut sum, mut plans, mut longest) = (Duration::ZERO, 0, Duration::ZERO);
    loop {
        let view = View {
            services: &world.services,
            tasks: &world.tasks,
            nodes: &world.nodes,
            ready: &world.ready,
            down: &world.down,
            history_max: HISTORY_MAX,
        };
        let start = Instant::now();
        let changes = world.scheduler.plan(world.now, &view);
        let took = start.elapsed();
        (sum, plans, longest) = (sum + took, plans + 1, longest.max(took));
        if changes.is_empty() {
            return (sum, plans, longest);
        }
        world.apply_all(&changes);
    }
}
