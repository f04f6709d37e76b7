//! What is on the disk, and what it takes to read it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use overlay_core::{Disk as _, Seed};
use overlay_node::{
    api::{ErrorKind, InitRequest, LocalState, NetworkCreate, Request, Response, Role},
    driver::FileDisk,
    identity::cipher::Ciphers,
};
use overlay_raft::storage::{DataKey, SealedDisk};

use super::host::{Host, Scratch, eventually, managers, port_is_free};

/// Reads a sealed file of a node as a thief of the whole directory does, where it is not locked.
pub(super) fn opened(directory: &Path, name: &str) -> Vec<u8> {
    unsealed(directory, &directory.join("node"))
        .read(name)
        .unwrap()
}

/// Opens sealed files, or a copy of them, with the key that lies in a data directory.
pub(super) fn unsealed(directory: &Path, files: &Path) -> SealedDisk<FileDisk> {
    let file = fs::read(directory.join("key")).unwrap();
    // A version, the variant that is open, and a key of 32 octets after its length.
    let [1, 0, 32, key @ ..] = &file[..] else {
        panic!("the key file is locked or of another version")
    };
    let key = DataKey::new(*key.first_chunk().unwrap());
    let files = FileDisk::open(files).unwrap();
    // Nothing is sealed here, so the seed does not matter.
    SealedDisk::open(files, Arc::new(Ciphers), &key, &Seed::from_u64(0)).unwrap()
}

fn is_locked(host: &Host) -> bool {
    // The variant of the key file.
    fs::read(host.directory.join("key")).unwrap()[1] == 1
}

async fn state(host: &Host) -> LocalState {
    match host.ask(Request::Info).await {
        Ok(Response::Info(info)) => info.state,
        other => panic!("{other:?}"),
    }
}

async fn unlock_key(host: &Host, request: Request) -> Option<String> {
    match host.ask(request).await {
        Ok(Response::UnlockKey(key)) => key,
        other => panic!("{other:?}"),
    }
}

async fn start_again(host: &mut Host) {
    host.stop().await;
    port_is_free(host).await;
    host.restart().await;
}

fn files(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_tells_nothing_of_the_cluster() {
    let scratch = Scratch::new("told");
    let mut host = Host::start(&scratch, 31, 1).await;
    host.ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    let create = NetworkCreate {
        name: "canary-network".to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    };
    host.ask(Request::NetworkCreate(create)).await.unwrap();
    host.attach_to(
        "canary-network",
        "canary-endpoint",
        overlay_core::plane::Namespace::InProcess,
    )
    .await
    .unwrap();
    host.stop().await;
    let files = files(&host.directory);
    let logs = files
        .iter()
        .filter(|file| file.starts_with(host.directory.join("raft")));
    assert!(logs.count() > 0, "{files:?}");
    for file in &files {
        let content = fs::read(file).unwrap();
        for word in [&b"canary"[..], b"BEGIN", b"host1"] {
            let mut parts = content.windows(word.len());
            assert!(!parts.any(|part| part == word), "{file:?}");
        }
    }
    // They are there, for who has the key.
    let memory = opened(&host.directory, "agent");
    assert!(memory.windows(14).any(|part| part == b"canary-network"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_manager_waits_for_its_key_and_a_worker_does_not() {
    let scratch = Scratch::new("autolock");
    let mut first = Host::start(&scratch, 32, 1).await;
    let mut second = Host::start(&scratch, 32, 2).await;
    first
        .ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    second.join(&first, Role::Worker).await;
    let rotate = Request::UnlockKey { rotate: true };
    let refused = first.ask(rotate.clone()).await.unwrap_err();
    assert!(refused.message.contains("--autolock"), "{refused}");
    assert_eq!(
        unlock_key(&first, Request::UnlockKey { rotate: false }).await,
        None
    );

    let autolock = |on| Request::Autolock { on };
    let key = unlock_key(&first, autolock(true)).await.unwrap();
    assert!(is_locked(&first), "before it was said that it is");
    assert_eq!(
        unlock_key(&first, autolock(true)).await.as_ref(),
        Some(&key)
    );
    start_again(&mut first).await;
    assert_eq!(state(&first).await, LocalState::Locked);
    for request in [
        Request::NodeList,
        Request::Init(InitRequest::default()),
        Request::Leave { force: false },
    ] {
        let refused = first.ask(request).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Locked, "{refused}");
        assert!(refused.message.contains("unlock"), "{refused}");
    }
    let unlock = |key: &str| Request::Unlock {
        key: key.to_owned(),
    };
    let wrong = format!("SWMKEY-1-{}", "A".repeat(43));
    let refused = first.ask(unlock(&wrong)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Untrusted, "{refused}");
    let refused = first.ask(unlock("SWMKEY-1-x")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid, "{refused}");
    first.ask(unlock(&key)).await.unwrap();
    assert_eq!(state(&first).await, LocalState::Active);
    eventually("a leader", async || managers(&first).await.len() == 2).await;

    // Workers do not know the key; whoever becomes a manager does.
    assert!(!is_locked(&second));
    let role = |role| Request::NodeSetRole {
        node: second.name.clone(),
        role,
    };
    let (promote, demote) = (role(Role::Manager), role(Role::Worker));
    first.ask(promote).await.unwrap();
    eventually("a manager's directory that is locked", async || {
        is_locked(&second)
    })
    .await;
    let rotated = unlock_key(&first, rotate).await.unwrap();
    assert_ne!(rotated, key);
    // The key of before is of no use once the manager has the new one.
    let settled = async |host: &mut Host| {
        eventually("the new key", async || {
            start_again(host).await;
            let refused = host.ask(unlock(&key)).await;
            host.ask(unlock(&rotated)).await.is_ok() && refused.is_err()
        })
        .await;
    };
    settled(&mut second).await;
    eventually("a quorum", async || managers(&first).await.len() == 2).await;
    first.ask(demote).await.unwrap();
    eventually("a worker's directory that is open", async || {
        !is_locked(&second)
    })
    .await;
    start_again(&mut second).await;
    assert_eq!(state(&second).await, LocalState::Active);

    assert_eq!(unlock_key(&first, autolock(false)).await, None);
    assert!(!is_locked(&first));
    start_again(&mut first).await;
    assert_eq!(state(&first).await, LocalState::Active);
    for mut host in [first, second] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_key_leaves_with_force() {
    let scratch = Scratch::new("keyless");
    let mut host = Host::start(&scratch, 33, 1).await;
    host.ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    unlock_key(&host, Request::Autolock { on: true })
        .await
        .unwrap();
    start_again(&mut host).await;
    host.ask(Request::Leave { force: true }).await.unwrap();
    assert_eq!(state(&host).await, LocalState::Inactive);
    host.ask(Request::Init(InitRequest::default()))
        .await
        .unwrap();
    assert!(!is_locked(&host));
    host.stop().await;
}
