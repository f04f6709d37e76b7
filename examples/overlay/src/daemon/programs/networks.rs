//! The networks of a program: each is an endpoint, and all of them are in the program's one namespace.
//!
//! An endpoint is written down before it is attached, and stays written down until it is detached.

use std::{collections::BTreeSet, time::Duration};

use overlay_core::EndpointId;
use tokio::time::{sleep, timeout};

use super::{
    Phase, Programs, draw_id,
    entry::find,
    record::{Link, Record},
    unexpected,
};
use crate::api::{AttachRequest, EndpointInfo, Error, ErrorKind, NetworkChoice, Request, Response};

/// How many networks a program is on at the most.
const NETWORKS_MAX: usize = 16;
/// How long a detached endpoint's interface may take to be gone.
const GONE_TIME_MAX: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

impl Programs {
    /// Attaches the endpoints of a program that were written down, one after the other.
    pub(super) async fn attach_all(
        &self,
        id: EndpointId,
        networks: Vec<NetworkChoice>,
    ) -> Result<(), Error> {
        let links = match self.entries().get(&id) {
            Some(entry) => entry.record.links.clone(),
            None => Vec::new(),
        };
        for (link, choice) in links.into_iter().zip(networks) {
            self.attach(id, &link, choice).await?;
        }
        Ok(())
    }

    /// Gives a program that runs an interface on one more network.
    pub(crate) async fn connect(
        &self,
        reference: &str,
        choice: NetworkChoice,
    ) -> Result<(), Error> {
        let endpoint = draw_id()?;
        let (id, link) = {
            let mut entries = self.entries();
            let record = &find(&entries, reference)?.record;
            let (id, name) = (record.info.id, &record.info.name);
            if record.running().is_none() {
                return Err(not_running(name));
            }
            if let Some(link) = record.on(&choice.network) {
                let message = format!(
                    "program {name} is connected to network {} already",
                    link.network
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            check_count(record.links.len() + 1)?;
            let Some(entry) = entries.get_mut(&id) else {
                return Err(not_running(reference));
            };
            (id, entry.record.add(endpoint, &choice.network))
        };
        let attached = match self.change(id, |_| {}).await {
            Ok(()) => self.attach(id, &link, choice).await,
            Err(error) => Err(error),
        };
        let ended = || {
            let entries = self.entries();
            let alive = entries.get(&id).map(|entry| *entry.phase.borrow());
            alive != Some(Phase::Alive)
        };
        match attached {
            // Whoever cleaned up after it may not have seen this endpoint yet.
            Ok(()) if ended() => {
                self.detach_for_sure(endpoint).await;
                Err(not_running(reference))
            }
            Ok(()) => Ok(()),
            Err(error) => {
                self.drop_link(id, endpoint).await;
                Err(error)
            }
        }
    }

    /// Takes a program that runs off a network.
    pub(crate) async fn disconnect(
        &self,
        reference: &str,
        network: &str,
        force: bool,
    ) -> Result<(), Error> {
        let (id, endpoint) = {
            let entries = self.entries();
            let record = &find(&entries, reference)?.record;
            let name = &record.info.name;
            if record.running().is_none() {
                return Err(not_running(name));
            }
            let Some(link) = record.on(network) else {
                let message = format!(
                    "program {name} is not connected to network {network}, but to: {}",
                    record.info.network
                );
                return Err(Error::new(ErrorKind::NotFound, message));
            };
            let mut others = record.links.iter().filter(|other| other.stays);
            if !others.any(|other| other.endpoint != link.endpoint) {
                let message = format!(
                    "{} is the only network of program {name}, which lives on its networks: connect it to another one before, or end it with `overlay stop {name}`",
                    link.network
                );
                return Err(Error::new(ErrorKind::InUse, message));
            }
            (record.info.id, link.endpoint)
        };
        self.change(id, |record| set_stays(record, endpoint, false))
            .await?;
        match self.detach_one(endpoint).await {
            Ok(()) => {
                self.until_gone(endpoint).await;
                self.change(id, |record| record.detach(endpoint)).await
            }
            Err(error) if force => {
                tracing::warn!(%error, %endpoint, "cannot take a program off a network yet, trying again");
                let programs = self.clone();
                tokio::spawn(async move { programs.drop_link(id, endpoint).await });
                Ok(())
            }
            Err(error) => {
                // As it was; if the manager has heard of it after all, the next attempt finds nothing to do.
                self.change(id, |record| set_stays(record, endpoint, true))
                    .await?;
                Err(error)
            }
        }
    }

    /// Detaches what a crash left between connected and not connected.
    pub(super) fn settle_links(&self, id: EndpointId) {
        let unsettled: Vec<_> = match self.entries().get(&id) {
            Some(entry) => {
                let links = entry.record.links.iter().filter(|link| !link.stays);
                links.map(|link| link.endpoint).collect()
            }
            None => Vec::new(),
        };
        for endpoint in unsettled {
            let programs = self.clone();
            tokio::spawn(async move { programs.drop_link(id, endpoint).await });
        }
    }

    /// Detaches all endpoints of a program; those that are not attached are fine.
    pub(super) async fn detach(&self, id: EndpointId) -> Result<(), Error> {
        let endpoints: Vec<_> = match self.entries().get(&id) {
            Some(entry) => entry.record.links.iter().map(|one| one.endpoint).collect(),
            None => Vec::new(),
        };
        let mut done = Ok(());
        for endpoint in endpoints.into_iter().rev() {
            done = done.and(self.detach_one(endpoint).await);
        }
        done
    }

    /// Detaches an endpoint; one that is not attached is fine.
    pub(super) async fn detach_one(&self, endpoint: EndpointId) -> Result<(), Error> {
        let endpoint = endpoint.to_string();
        let detached = self.0.node.request(Request::Detach { endpoint }).await;
        match detached {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotMember) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn attach(
        &self,
        id: EndpointId,
        link: &Link,
        choice: NetworkChoice,
    ) -> Result<(), Error> {
        let (name, namespace) = match self.entries().get(&id) {
            Some(entry) => (entry.record.info.name.clone(), entry.record.namespace(link)),
            None => return Err(not_running(&id.short())),
        };
        let request = Request::Attach(AttachRequest {
            network: choice.network,
            name,
            aliases: choice.aliases,
            addresses: choice.addresses,
            namespace,
            endpoint: Some(link.endpoint),
        });
        let attached: EndpointInfo = match self.0.node.request(request).await? {
            Response::Endpoints(endpoints) if !endpoints.is_empty() => endpoints
                .into_iter()
                .next()
                .ok_or_else(|| not_running(&id.short()))?,
            other => return Err(unexpected(&other)),
        };
        self.change(id, |record| record.attach(&attached)).await
    }

    /// Detaches an endpoint, however long it takes, and takes it off its program's record.
    async fn drop_link(&self, id: EndpointId, endpoint: EndpointId) {
        self.detach_for_sure(endpoint).await;
        self.until_gone(endpoint).await;
        if let Err(error) = self.change(id, |record| record.detach(endpoint)).await {
            tracing::warn!(%error, %endpoint, "a detached endpoint is still on disk");
        }
    }

    /// Waits a little until an endpoint that was detached is gone from this node, so that its interface is free.
    async fn until_gone(&self, endpoint: EndpointId) {
        let gone = async {
            while let Ok(Response::Endpoints(endpoints)) =
                self.0.node.request(Request::EndpointList).await
                && endpoints.iter().any(|other| other.id == endpoint)
            {
                sleep(PAUSE).await;
            }
        };
        let _ = timeout(GONE_TIME_MAX, gone).await;
    }
}

/// Refuses what no program can be on.
pub(super) fn check(networks: &[NetworkChoice]) -> Result<(), Error> {
    if networks.is_empty() {
        let message = "a program runs on a network: name one with --network";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    check_count(networks.len())?;
    let mut names = BTreeSet::new();
    match networks
        .iter()
        .find(|choice| !names.insert(&choice.network))
    {
        Some(twice) => {
            let message = format!("network {} is named twice: name it once", twice.network);
            Err(Error::new(ErrorKind::Invalid, message))
        }
        None => Ok(()),
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if count > NETWORKS_MAX {
        let message =
            format!("a program is on {NETWORKS_MAX} networks at the most, not on {count}");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    Ok(())
}

fn set_stays(record: &mut Record, endpoint: EndpointId, stays: bool) {
    let mut links = record.links.iter_mut();
    if let Some(link) = links.find(|link| link.endpoint == endpoint) {
        link.stays = stays;
    }
}

fn not_running(name: &str) -> Error {
    let message = format!(
        "program {name} is not running: only one that runs is connected and disconnected; `overlay ps` lists them"
    );
    Error::new(ErrorKind::Conflict, message)
}
