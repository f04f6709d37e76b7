//! The plan against a recorded kernel, and the slots by themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use overlay_core::{
    EndpointId, MacAddr, ServiceId,
    plane::{DesiredBackend, DesiredService, Distance, Locality, PlatformError, Policy, VipConfig},
};
use proptest::prelude::*;

use super::*;

type Services = BTreeMap<ServiceId, DesiredService>;

#[test]
fn a_service_lives_as_recorded() {
    let mut reconciler = Reconciler::new(Recorder::default());
    let mut services = Services::from([(id(1), service(&[100], &[(3, 1), (4, 3)]))]);
    reconciler.apply(&services).unwrap();
    // The same again is nothing.
    reconciler.apply(&services).unwrap();
    // One drains: its flow stays. The other goes: its flow goes, and nobody is left who takes new ones.
    for backend in [3, 4] {
        reconciler.kernel().actual.flows.push(flow(100, backend));
    }
    // Flows that are none of ours: to an ordinary address.
    reconciler.kernel().actual.flows.push(flow(7, 7));
    backend(&mut services, 1, 3).draining = true;
    reconciler.apply(&services).unwrap();
    let service = services.get_mut(&id(1)).unwrap();
    service.backends.remove(&endpoint(4));
    reconciler.apply(&services).unwrap();
    // It comes back under two addresses, and goes for good.
    let service = services.get_mut(&id(1)).unwrap();
    service.backends = self::service(&[], &[(5, 1)]).backends;
    service.addresses.push(v6(101));
    reconciler.apply(&services).unwrap();
    services.clear();
    reconciler.apply(&services).unwrap();
    assert_eq!(
        reconciler.kernel().said,
        "make the table\n\
         lead 10.0.1.100 to 2 backends by 1024 slots\n\
         lead 10.0.1.100 to 1 backends by 1 slots\n\
         refuse flows to 10.0.1.100\n\
         forget the flow of 10.0.1.2:1004 to 10.0.1.100:80 at 10.0.1.4\n\
         lead 10.0.1.100 to 1 backends by 1 slots\n\
         lead fd00::101 to 1 backends by 1 slots\n\
         forget the flow of 10.0.1.2:1003 to 10.0.1.100:80 at 10.0.1.3\n\
         remove 10.0.1.100\n\
         remove fd00::101\n"
    );
    assert_eq!(reconciler.kernel().actual.flows, [flow(7, 7)]);
    let stats = reconciler.stats();
    assert_eq!((stats.repairs, stats.forgotten), (0, 2));
    assert_eq!((stats.applied, stats.operations), (6, 8));
}

#[test]
fn what_somebody_else_did_is_repaired_and_counted() {
    let mut reconciler = Reconciler::new(Recorder::default());
    let mut services = Services::from([
        (id(1), service(&[100], &[(3, 1), (4, 3)])),
        (id(2), service(&[101], &[(5, 1)])),
    ]);
    assert_eq!(reconciler.apply(&services).unwrap().repairs, 0);
    let damages: [fn(&mut Actual); 4] = [
        |actual| {
            actual.vips.insert(v4(100), None);
        },
        |actual| {
            actual.vips.remove(&v4(100));
        },
        |actual| {
            actual.vips.insert(v4(77), None);
        },
        |actual| actual.sound = false,
    ];
    for (damage, expected) in damages.into_iter().zip([1, 1, 1, 3]) {
        damage(&mut reconciler.kernel().actual);
        assert_eq!(reconciler.apply(&services).unwrap().repairs, expected);
        assert_eq!(reconciler.apply(&services).unwrap().operations, []);
    }
    // What was meant to change is no repair, also beside one.
    reconciler.kernel().actual.vips.insert(v4(100), None);
    backend(&mut services, 2, 5).draining = true;
    let report = reconciler.apply(&services).unwrap();
    assert_eq!((report.operations.len(), report.repairs), (2, 1));
    assert_eq!(reconciler.stats().repairs, 7);
}

#[test]
fn a_table_that_became_another_meanwhile_is_made_anew() {
    let mut reconciler = Reconciler::new(Recorder::default());
    let services = Services::from([(id(1), service(&[100], &[(3, 1)]))]);
    reconciler.apply(&services).unwrap();
    reconciler.kernel().actual.vips.insert(v4(100), None);
    reconciler.kernel().busy = true;
    let report = reconciler.apply(&services).unwrap();
    assert_eq!(report.operations.first(), Some(&Operation::Make));
    assert_eq!(report.operations.len(), 2);
    assert_eq!(reconciler.apply(&services).unwrap().operations, []);
}

#[test]
fn what_the_kernel_cannot_do_is_refused_with_the_reason() {
    let config = |policy| VipConfig {
        policy,
        ..VipConfig::default()
    };
    let mut service = service(&[100], &[(3, 1)]);
    for policy in [Policy::WeightedRoundRobin, Policy::LeastConnections] {
        service.config = config(policy);
        let refused = compile(&service).unwrap_err();
        assert_eq!(refused, Refused::Policy { policy });
        assert!(refused.to_string().contains("Maglev"), "{refused}");
    }
    service.config = config(Policy::Maglev);
    assert!(compile(&service).is_ok());
    for odd in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
    ] {
        let address = odd.parse().unwrap();
        service.addresses = vec![address];
        assert_eq!(
            compile(&service),
            Err(Refused::Address { address }),
            "{odd}"
        );
    }
    let many = |count: u16| {
        let mut service = self::service(&[100], &[]);
        for number in 0..count {
            let mut bytes = [9; 16];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            let backend = new_backend(3, 1);
            service
                .backends
                .insert(EndpointId::from_bytes(bytes), backend);
        }
        service
    };
    let slots = u16::try_from(SLOTS).unwrap();
    assert!(compile(&many(slots)).is_ok());
    let count = SLOTS + 1;
    assert_eq!(compile(&many(slots + 1)), Err(Refused::Backends { count }));
    // The others are served; of two with the same address the first.
    let services = Services::from([
        (id(1), self::service(&[100], &[(3, 1)])),
        (id(2), self::service(&[101, 100], &[(4, 1)])),
        (
            id(3),
            DesiredService {
                config: config(Policy::LeastConnections),
                ..self::service(&[102], &[])
            },
        ),
    ]);
    let (wanted, refused) = compile_all(&services);
    assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [v4(100)]);
    let taken = Refused::Taken { address: v4(100) };
    let policy = Refused::Policy {
        policy: Policy::LeastConnections,
    };
    assert_eq!(refused, [(id(2), taken), (id(3), policy)]);
}

#[test]
fn backends_are_chosen_by_weight_state_family_and_distance() {
    let mut services = Services::from([(id(1), service(&[100], &[(3, 1), (4, 1), (5, 0)]))]);
    let vip = |services: &Services| {
        compile(&services[&id(1)])
            .unwrap()
            .remove(&v4(100))
            .unwrap()
    };
    let takers =
        |services: &Services| -> BTreeSet<IpAddr> { vip(services).vip.slots.into_iter().collect() };
    assert_eq!(takers(&services), [v4(3), v4(4)].into());
    assert_eq!(vip(&services).backends, [v4(3), v4(4), v4(5)].into());
    backend(&mut services, 1, 4).addresses = vec![v6(4)];
    assert_eq!(takers(&services), [v4(3)].into());
    assert_eq!(vip(&services).backends, [v4(3), v4(5)].into());
    backend(&mut services, 1, 4).addresses = vec![v6(4), v4(4), v4(44)];
    backend(&mut services, 1, 3).distance = Distance::Node;
    for (locality, near) in [
        (Locality::Any, vec![v4(3), v4(4)]),
        (Locality::Zone, vec![v4(3)]),
        (Locality::Node, vec![v4(3)]),
        (Locality::NodeOnly, vec![v4(3)]),
    ] {
        services.get_mut(&id(1)).unwrap().config.locality = locality;
        assert_eq!(
            takers(&services),
            near.into_iter().collect(),
            "{locality:?}"
        );
    }
    // The near one drains: those farther away take new flows, if they may, and it keeps its own.
    backend(&mut services, 1, 3).draining = true;
    for (locality, far) in [(Locality::Node, vec![v4(4)]), (Locality::NodeOnly, vec![])] {
        services.get_mut(&id(1)).unwrap().config.locality = locality;
        assert_eq!(takers(&services), far.into_iter().collect(), "{locality:?}");
        assert!(vip(&services).backends.contains(&v4(3)));
    }
    let config = &mut services.get_mut(&id(1)).unwrap().config;
    config.locality = Locality::Any;
    config.affinity = Some(Duration::from_secs(10));
    assert_eq!(vip(&services).vip.by, HashBy::Client);
    services.get_mut(&id(1)).unwrap().config.affinity = Some(Duration::ZERO);
    assert_eq!(vip(&services).vip.by, HashBy::Flow);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_share_is_fair_to_one_slot(weights in weights()) {
        let slots = slots_of(&weights);
        prop_assert_eq!(slots.len(), SLOTS);
        let total: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
        for (number, weight) in &weights {
            let got = slots.iter().filter(|slot| **slot == v4(*number)).count() as u64;
            let fair = u64::from(*weight) * SLOTS as u64;
            // |got / SLOTS - weight / total| < 1 / SLOTS
            prop_assert!((got * total).abs_diff(fair) < total, "{} slots by {}", got, weight);
        }
    }

    /// One that goes takes its own slots along and few others; coming is the same, read backwards.
    #[test]
    fn few_slots_move_that_need_not(weights in weights(), which: prop::sample::Index) {
        prop_assume!(weights.len() > 2);
        let gone = *which.get(&weights.keys().copied().collect::<Vec<_>>());
        let before = slots_of(&weights);
        let mut left = weights.clone();
        left.remove(&gone);
        let after = slots_of(&left);
        let moved = before.iter().zip(&after);
        let moved = moved.filter(|(one, other)| one != other && **one != v4(gone)).count();
        prop_assert!(moved <= MOVED_MAX, "{} of {:?} without {}", moved, weights, gone);
    }

    #[test]
    fn what_was_done_is_what_is_wanted(steps in prop::collection::vec(step(), 1..12)) {
        let mut reconciler = Reconciler::new(Recorder::default());
        let mut services = Services::new();
        for step in steps {
            step.take(&mut services, reconciler.kernel());
            let flows = reconciler.kernel().actual.flows.clone();
            let report = reconciler.apply(&services).unwrap();
            let (wanted, refused) = compile_all(&services);
            prop_assert_eq!(&report.refused, &refused);
            let actual = &reconciler.kernel().actual;
            prop_assert!(actual.sound);
            let there = actual.vips.iter().map(|(address, vip)| (*address, vip.clone().unwrap()));
            let vips = wanted.iter().map(|(address, wanted)| (*address, wanted.vip.clone()));
            prop_assert!(there.eq(vips));
            // No flow went whose backend is there.
            for flow in flows {
                let served = wanted.get(&flow.to.ip());
                let kept = served.is_some_and(|wanted| wanted.backends.contains(&flow.backend));
                prop_assert!(!kept || actual.flows.contains(&flow));
            }
            // To addresses that never were virtual ones there may be whatever there is.
            let mut ours = actual.clone();
            ours.flows.retain(|flow| wanted.contains_key(&flow.to.ip()));
            prop_assert_eq!(plan(&wanted, &ours), vec![]);
            prop_assert_eq!(reconciler.apply(&services).unwrap().operations, vec![]);
        }
    }
}

/// Of 1,024: an eighth. Of equal weights it is a third to a half of that.
const MOVED_MAX: usize = 128;

/// A kernel that does as it is told, and writes it down.
#[derive(Debug, Default)]
struct Recorder {
    actual: Actual,
    said: String,
    /// The next commit meets a table that is in use.
    busy: bool,
}

impl Kernel for Recorder {
    fn read(&mut self) -> Result<Actual, PlatformError> {
        Ok(Actual {
            flows: Vec::new(),
            ..self.actual.clone()
        })
    }

    fn flows(
        &mut self,
        looked_for: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, PlatformError> {
        let flows = self.actual.flows.iter().filter(|flow| looked_for(flow));
        Ok(flows.copied().collect())
    }

    fn commit(&mut self, operations: &[Operation]) -> Result<(), PlatformError> {
        if std::mem::take(&mut self.busy) {
            let busy = std::io::Error::from_raw_os_error(nix::libc::EBUSY);
            return Err(PlatformError::system("change", &busy));
        }
        for operation in operations {
            self.said.push_str(&format!("{operation}\n"));
            match operation {
                Operation::Make => {
                    self.actual.sound = true;
                    self.actual.vips.clear();
                }
                Operation::Put { address, vip } => {
                    self.actual.vips.insert(*address, Some(vip.clone()));
                }
                Operation::Remove { address } => {
                    assert!(self.actual.vips.remove(address).is_some());
                }
                Operation::Forget { .. } => panic!("no change of the table"),
            }
        }
        Ok(())
    }

    fn forget(&mut self, flow: &Flow) -> Result<(), PlatformError> {
        self.said
            .push_str(&format!("{}\n", Operation::Forget { flow: *flow }));
        self.actual.flows.retain(|one| one != flow);
        Ok(())
    }
}

/// Something that happens to services, or to the kernel.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Vec<(u8, u16)>),
    Gone(u8),
    Drain(u8, u8),
    Flow(u8, u8),
    Damage(u8),
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    let backends = prop::collection::vec((1_u8..6, 0_u16..4), 0..5);
    prop_oneof![
        (0_u8..3, backends).prop_map(|(service, backends)| Step::Service(service, backends)),
        (0_u8..3).prop_map(Step::Gone),
        (0_u8..3, 1_u8..6).prop_map(|(service, backend)| Step::Drain(service, backend)),
        (100_u8..104, 1_u8..6).prop_map(|(to, backend)| Step::Flow(to, backend)),
        (100_u8..104).prop_map(Step::Damage),
        Just(Step::Lost),
    ]
}

impl Step {
    fn take(self, services: &mut Services, kernel: &mut Recorder) {
        match self {
            Self::Service(number, backends) => {
                // Of the last one another has the address, too.
                let address = 100 + number.min(1);
                services.insert(id(number), service(&[address], &backends));
            }
            Self::Gone(number) => {
                services.remove(&id(number));
            }
            Self::Drain(number, backend) => {
                let service = services.get_mut(&id(number));
                let backend = service.and_then(|one| one.backends.get_mut(&endpoint(backend)));
                if let Some(backend) = backend {
                    backend.draining = true;
                }
            }
            Self::Flow(to, backend) => {
                if !kernel.actual.flows.contains(&flow(to, backend)) {
                    kernel.actual.flows.push(flow(to, backend));
                }
            }
            Self::Damage(address) => {
                kernel.actual.vips.insert(v4(address), None);
            }
            Self::Lost => kernel.actual = Actual::default(),
        }
    }
}

fn weights() -> impl Strategy<Value = BTreeMap<u8, u16>> {
    prop::collection::btree_map(
        1_u8..=250,
        prop_oneof![Just(1_u16), 1_u16..=10, any_weight()],
        2..40,
    )
}

fn any_weight() -> impl Strategy<Value = u16> {
    1_u16..=u16::MAX
}

fn slots_of(weights: &BTreeMap<u8, u16>) -> Vec<IpAddr> {
    let backends: Vec<_> = weights
        .iter()
        .map(|(number, weight)| (*number, *weight))
        .collect();
    let mut compiled = compile(&service(&[251], &backends)).unwrap();
    compiled.remove(&v4(251)).unwrap().vip.slots
}

fn service(addresses: &[u8], backends: &[(u8, u16)]) -> DesiredService {
    let backends = backends
        .iter()
        .map(|(number, weight)| (endpoint(*number), new_backend(*number, *weight)));
    DesiredService {
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        addresses: addresses.iter().map(|number| v4(*number)).collect(),
        config: VipConfig::default(),
        backends: backends.collect(),
    }
}

fn new_backend(number: u8, weight: u16) -> DesiredBackend {
    DesiredBackend {
        mac: MacAddr::new([2, 0, 0, 0, 1, number]),
        addresses: vec![v4(number), v6(number)],
        weight,
        draining: false,
        distance: Distance::Far,
    }
}

fn backend(services: &mut Services, service: u8, number: u8) -> &mut DesiredBackend {
    let service = services.get_mut(&id(service)).unwrap();
    service.backends.get_mut(&endpoint(number)).unwrap()
}

fn flow(to: u8, backend: u8) -> Flow {
    Flow {
        protocol: 6,
        client: (v4(2), 1000 + u16::from(backend)).into(),
        to: (v4(to), 80).into(),
        backend: v4(backend),
        id: None,
    }
}

fn id(number: u8) -> ServiceId {
    ServiceId::from_bytes([number; 16])
}

fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

fn v4(number: u8) -> IpAddr {
    [10, 0, 1, number].into()
}

/// `fd00::100` for 100.
fn v6(number: u8) -> IpAddr {
    format!("fd00::{number}").parse().unwrap()
}
