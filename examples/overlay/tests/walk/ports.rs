//! Published UDP ports: asked with real sockets on every host, carried to tasks here and elsewhere.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    net::{IpAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    Story,
    services::{fetch, host_of, notes, remove, settled, start},
    support::{Cluster, OVERLAY, PATIENCE, address, eventually, say},
};

pub(crate) const STORIES: &[Story] = &[Story {
    name: "a_published_udp_port_reaches_a_task_from_every_host",
    hosts: 3,
    programs: &["sh"],
    tell: datagrams,
}];

fn datagrams(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    create(cluster)?;
    let task = settled(cluster, 0, 1, "a running task", |_| true)?;
    let home = host_of(task.first().context("no task")?)?;
    // The same number of TCP is another port.
    let httpd = ["--publish", "8080:8000", "--", OVERLAY, "httpd", "--port"];
    let page = ["service", "create", "--name", "page", "--network", "my-net"];
    cluster.ask(0, &[&page[..], &httpd[..], &["8000"]].concat())?;
    let listed = cluster.ask(0, &["service", "ls"])?;
    for ports in ["*:8080->7/udp", "*:8080->8000/tcp"] {
        ensure!(listed.contains(ports), "{listed}");
    }
    for (from, to) in [(0, 0), (1, 1), (2, 2), (home, (home + 1) % 3)] {
        let client = Client::new(cluster, from, address(to).into(), 8_080)?;
        client.eventually_told("web.1")?;
        for number in 0_u8..20 {
            let words = [number; 100];
            ensure!(client.ask(&words)?.as_deref() == Some(&words[..]), "echo");
        }
        // The most that there is, in fragments and in one piece.
        let long: Vec<u8> = (0..=250).cycle().take(LONGEST).collect();
        eventually(PATIENCE, "a long answer", || {
            Ok((client.ask(&long)?.as_deref() == Some(&long[..])).then_some(()))
        })?;
        let page = fetch(cluster, to)?.context("no page")?;
        ensure!(page.contains("task: page.1"), "{page}");
    }
    cluster.ask(0, &["service", "rm", "page"])?;
    at_home(cluster)?;
    moves(cluster)?;
    remove(cluster)?;
    let client = Client::new(cluster, 1, address(1).into(), 8_080)?;
    eventually(PATIENCE, "the end of the published port", || {
        Ok(client.is_refused().then_some(()))
    })
}

/// A port of mode `host` is open where a task runs, and nowhere else.
fn at_home(cluster: &Cluster) -> anyhow::Result<()> {
    let port = "published=8090,target=7,protocol=udp,mode=host";
    let words = ["service", "create", "--name", "home", "--network", "my-net"];
    let more = ["--publish", port, "--", OVERLAY, "echod"];
    cluster.ask(0, &[&words[..], &more].concat())?;
    let tasks = cluster.list(0, &["service", "ps", "home"])?;
    let home = host_of(tasks.first().context("no task")?)?;
    for host in [home, (home + 1) % 3, (home + 2) % 3] {
        let client = Client::new(cluster, host, address(host).into(), 8_090)?;
        if host == home {
            client.eventually_told("home.1")?;
        } else {
            ensure!(client.is_refused(), "it is open on another host");
        }
    }
    cluster.ask(0, &["service", "rm", "home"])?;
    Ok(())
}

/// A client stays with its task, and gets another one when that is gone.
fn moves(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ask(0, &["service", "scale", "web=3"])?;
    let tasks = settled(cluster, 0, 3, "three running tasks", |_| true)?;
    let mut clients = Vec::new();
    let all = eventually(PATIENCE, "clients of all tasks", || {
        for host in 0..3 {
            let client = Client::new(cluster, host, address(host).into(), 8_080)?;
            let told = client.eventually_told("web.")?;
            clients.push((client, told));
        }
        let all: BTreeSet<_> = clients.iter().map(|(_, told)| told.clone()).collect();
        Ok((all.len() == 3).then_some(all))
    })?;
    for (client, told) in &clients {
        for _ in 0..3 {
            let again = client.eventually_told("web.")?;
            ensure!(again == *told, "{told} first, then {again}");
        }
    }
    let victim = all.first().context("no task")?;
    let task = tasks.iter().find(|task| task["Name"] == victim.as_str());
    let host = host_of(task.context("an unknown task")?)?;
    let noted = notes(cluster, victim)?.pop().context("no process")?;
    let process = noted.split(' ').next_back().context("no number")?;
    let kill = format!("kill -9 {process}");
    // The namespace may end before the command does.
    cluster.run(host, &["exec", victim, "--", "sh", "-c", &kill])?;
    let began = Instant::now();
    for (client, told) in &clients {
        let now = eventually(PATIENCE, "an answer of another task", || {
            Ok(client.told()?.filter(|now| now != victim))
        })?;
        ensure!(told == victim || now == *told, "{told} lives, but {now}");
    }
    let elapsed = began.elapsed();
    say(&format!(
        "from the end of a task to answers of others to all clients: {elapsed:?}"
    ));
    Ok(())
}

/// Its tasks note their process numbers, and one that is killed does not come back soon.
fn create(cluster: &Cluster) -> anyhow::Result<String> {
    let folder = cluster.path("");
    let script = format!(
        "echo $OVERLAY_TASK_ID $$ >> {}/$OVERLAY_TASK; exec {OVERLAY} echod",
        folder.display()
    );
    let words = ["service", "create", "--name", "web", "--network", "my-net"];
    let more = ["--restart-delay", "1h", "--publish", "8080:7/udp", "--"];
    cluster.ask(0, &[&words[..], &more, &["sh", "-c", &script]].concat())
}

/// A socket on a host, connected to a published port.
struct Client(UdpSocket);

impl Client {
    fn new(cluster: &Cluster, host: usize, to: IpAddr, port: u16) -> anyhow::Result<Self> {
        let network = cluster.lab.namespace(host).context("an unknown host")?;
        let open = || -> anyhow::Result<UdpSocket> {
            move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
            Ok(UdpSocket::bind("0.0.0.0:0")?)
        };
        // A thread of its own, because it never comes back from there.
        let opened = thread::scope(|scope| scope.spawn(open).join());
        let socket = opened.map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        // It takes answers from there alone.
        socket.connect((to, port))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self(socket))
    }

    /// Sends a datagram, and returns what comes back; none if nothing does.
    fn ask(&self, datagram: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        // What came late belongs to another question.
        self.0.set_nonblocking(true)?;
        let mut answer = vec![0; 65_535];
        while self.0.recv(&mut answer).is_ok() {}
        self.0.set_nonblocking(false)?;
        self.0.send(datagram)?;
        match self.0.recv(&mut answer) {
            Ok(length) => {
                answer.truncate(length);
                Ok(Some(answer))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether nobody listens there.
    fn is_refused(&self) -> bool {
        let refused = self.ask(b"anybody?").err();
        let kind = refused.and_then(|error| Some(error.downcast_ref::<io::Error>()?.kind()));
        kind == Some(ErrorKind::ConnectionRefused)
    }

    /// Asks for the task's name.
    fn told(&self) -> anyhow::Result<Option<String>> {
        Ok(self.ask(b"")?.map(String::from_utf8).transpose()?)
    }

    fn eventually_told(&self, beginning: &str) -> anyhow::Result<String> {
        eventually(PATIENCE, "the name of a task", || {
            Ok(self.told()?.filter(|told| told.starts_with(beginning)))
        })
    }
}

/// The longest datagram over IPv4, in octets.
const LONGEST: usize = 65_507;
