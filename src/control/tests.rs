//! How long the controller waits for workers and files that hang.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::sync::{Condvar, Mutex};

use prometheus::Registry;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::context::{MetricFamilies, WaitLimits};
use super::*;
use crate::config::load_str;
use crate::net::listener::Address;
use crate::server::accepting::{self, AcceptCommand};
use crate::session::Sessions;
use crate::telemetry::exposition::encode;

/// A controller with two workers that the test may leave hanging.
struct TestController {
    handle: ControlHandle,
    text: Arc<Mutex<String>>,
    file: Arc<Hanging>,
    registry: Registry,
    sessions: Arc<Sessions>,
    workers: Vec<Option<UnboundedReceiver<AcceptCommand>>>,
    running: JoinSet<()>,
    /// Control runs as long as this is there.
    _over: oneshot::Sender<()>,
}

/// What a file system does at times.
#[derive(Default)]
struct Hanging(Mutex<bool>, Condvar);

impl Hanging {
    fn set(&self, hangs: bool) {
        *self.0.lock().unwrap() = hangs;
        self.1.notify_all();
    }

    fn wait(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |hangs| *hangs).unwrap());
    }
}

fn text(listeners: &[&str], more: &str) -> String {
    let listeners: Vec<String> =
        listeners.iter().map(|name| format!("{{ name: {name}, bind: '127.0.0.1:0' }}")).collect();
    format!(
        "listeners: [{}]\nroutes: [{{ name: r, upstream: u }}]\nupstreams: {{ u: {{ endpoints: ['ws://127.0.0.1:1'] }} }}\n{more}",
        listeners.join(", ")
    )
}

impl TestController {
    async fn start(listeners: &[&str], working: &[usize], wait_limits: WaitLimits) -> TestController {
        let text = Arc::new(Mutex::new(text(listeners, "")));
        let file = Arc::<Hanging>::default();
        let loader: Loader = {
            let (text, file) = (Arc::clone(&text), Arc::clone(&file));
            Arc::new(move || {
                file.wait();
                load_str("test", &text.lock().unwrap(), &|_| None)
            })
        };
        let registry = Registry::new();
        let families = MetricFamilies::register(&registry, 2).unwrap();
        let context = CompileContext { workers: 2, families, wait_limits, ..CompileContext::for_check() };
        let sessions = Arc::clone(&context.sessions);
        let (orders, mut workers): (Vec<_>, Vec<_>) =
            (0..2).map(|_| mpsc::unbounded_channel()).map(|(order, orders)| (order, Some(orders))).unzip();
        let mut running = JoinSet::new();
        for &index in working {
            running.spawn(accepting::run(index, workers[index].take().unwrap(), Arc::clone(&sessions)));
        }
        let ((tell, told), (over, is_over)) = (oneshot::channel(), oneshot::channel());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let starting = Controller::start(
                    loader().unwrap(),
                    Some(Arc::clone(&loader)),
                    context,
                    orders,
                    ProcessOrigin::default(),
                );
                let (control, started) = starting.await.unwrap();
                tell.send(started.handle).unwrap();
                tokio::select! {
                    () = control.run() => {}
                    _ = is_over => {}
                }
            });
            runtime.shutdown_background();
        });
        TestController { handle: told.await.unwrap(), text, file, registry, sessions, workers, running, _over: over }
    }

    /// The worker of this index goes on.
    fn resume_worker(&mut self, index: usize) {
        let orders = self.workers[index].take().unwrap();
        self.running.spawn(accepting::run(index, orders, Arc::clone(&self.sessions)));
    }

    async fn reload_as(&self, text: String) -> Result<Changes, ReloadError> {
        *self.text.lock().unwrap() = text;
        self.handle.reload(Trigger::Signal).await
    }

    fn reloads(&self, result: &str) -> bool {
        let line = format!("wsluice_config_reloads_total{{result=\"{result}\",trigger=\"signal\"}} 1");
        encode(&self.registry).unwrap().lines().any(|found| found == line)
    }

    fn address(&self, name: &str) -> Option<std::net::SocketAddr> {
        let in_force = self.handle.in_force();
        let (_, address) = in_force.listeners.iter().find(|(found, _)| &**found == name)?;
        let Address::Tcp(address) = address else { panic!("{address}") };
        Some(*address)
    }
}

/// The wait for a worker that hangs: long enough that a busy machine is not taken for one.
const SHORT: WaitLimits = WaitLimits { workers: Duration::from_millis(1500), files: Duration::from_secs(60) };

#[tokio::test]
async fn a_reload_is_in_force_for_all_but_a_worker_that_hangs_which_has_it_when_it_goes_on() {
    // The second one is not heard of from the start on.
    let mut controller = TestController::start(&["one"], &[0], SHORT).await;
    let changes = controller.reload_as(text(&["one", "two"], "")).await.unwrap();
    assert_eq!((&changes.listeners.added[..], &changes.workers_late[..]), (&["two".to_owned()][..], &[1][..]));
    assert!(controller.reloads("late") && !controller.reloads("done"));
    assert!(controller.address("two").is_some(), "it is in force");
    // Taken out again: nothing of it is left, and what hangs is not waited for once more.
    let changes = controller.reload_as(text(&["two"], "")).await.unwrap();
    assert_eq!((&changes.listeners.removed[..], &changes.workers_late[..]), (&["one".to_owned()][..], &[1][..]));
    assert_eq!(controller.address("one"), None);
    let there = controller.address("two").unwrap();
    // The commands it got while it hung were kept in order.
    controller.resume_worker(1);
    let changes = loop {
        let changes = controller.reload_as(text(&["two"], "")).await.unwrap();
        if changes.workers_late.is_empty() {
            break changes;
        }
        tokio::task::yield_now().await;
    };
    assert!(changes.is_empty());
    // Both accept: whichever of the two sockets a connection is dealt to, it is let in.
    let before = controller.sessions.active();
    let mut clients = vec![];
    for _ in 0..32 {
        clients.push(TcpStream::connect(there).await.unwrap());
    }
    timeout(Duration::from_secs(20), async {
        while controller.sessions.active() < before + 32 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    let changes = controller.reload_as(text(&["two", "three"], "")).await.unwrap();
    assert!(changes.workers_late.is_empty(), "it is waited for as all others again: {changes:?}");
    assert!(controller.reloads("done"));
}

#[tokio::test]
async fn drains_and_the_end_do_not_wait_for_a_worker_that_hangs_either() {
    let controller = TestController::start(&["one", "two"], &[0], SHORT).await;
    let target = DrainTarget::Listener { name: "one".to_owned() };
    let span = Duration::ZERO;
    let begun = controller.handle.request(|done| ControlRequest::Drain { target: target.clone(), span, done }).await;
    assert_eq!((begun, controller.address("one")), (Some(Some(0)), None));
    let ended = controller.handle.request(|done| ControlRequest::EndDrain { target, done }).await.unwrap();
    assert!(ended.unwrap() && controller.address("one").is_some());
    controller.handle.request(|done| ControlRequest::StopAccepting { done }).await.unwrap();
    assert_eq!((controller.address("one"), controller.address("two")), (None, None));
}

#[tokio::test]
async fn files_that_cannot_be_read_leave_everything_as_it_was_until_they_can() {
    let wait_limits = WaitLimits { files: Duration::from_millis(50), ..WaitLimits::default() };
    let controller = TestController::start(&["one"], &[0, 1], wait_limits).await;
    controller.file.set(true);
    for _ in 0..3 {
        *controller.text.lock().unwrap() = text(&["one", "two"], "");
        let refused = controller.handle.reload(Trigger::Signal).await.unwrap_err();
        assert!(refused.to_string().contains("could not be read in 50ms"), "{refused}");
    }
    let checked = controller.handle.request(|done| ControlRequest::Check { text: None, done }).await.unwrap();
    assert!(matches!(checked, Err(ReloadError::Unread(_))), "{checked:?}");
    assert_eq!(controller.address("two"), None);
    controller.file.set(false);
    // On a busy machine reading may take longer than it may here.
    while controller.reload_as(text(&["one", "three"], "")).await.is_err() {}
    assert!(controller.address("three").is_some() && controller.address("two").is_none(), "what is in the files now");
}

#[tokio::test]
async fn orders_that_need_no_file_do_not_wait_for_one_that_hangs() {
    let wait_limits = WaitLimits { files: Duration::from_secs(600), ..WaitLimits::default() };
    let controller = TestController::start(&["one", "two"], &[0, 1], wait_limits).await;
    controller.file.set(true);
    let others = async {
        let target = DrainTarget::Listener { name: "one".to_owned() };
        let (to_drain, span) = (target.clone(), Duration::ZERO);
        let begun = controller.handle.request(|done| ControlRequest::Drain { target: to_drain, span, done }).await;
        assert_eq!((begun, controller.address("one")), (Some(Some(0)), None));
        let ended = controller.handle.request(|done| ControlRequest::EndDrain { target, done }).await.unwrap();
        assert!(ended.unwrap() && controller.address("one").is_some());
        // A limited number of checks waits, and each is answered.
        let check = || controller.handle.request(|done| ControlRequest::Check { text: None, done });
        let mut first =
            Box::pin(async { tokio::join!(check(), check(), check(), check(), check(), check(), check(), check()) });
        tokio::select! {
            biased;
            _ = &mut first => panic!("the file hangs"),
            ninth = check() => assert!(matches!(ninth, Some(Err(ReloadError::Busy))), "{ninth:?}"),
        }
        controller.handle.request(|done| ControlRequest::End { done }).await.unwrap();
        controller.handle.request(|done| ControlRequest::StopAccepting { done }).await.unwrap();
        assert_eq!((controller.address("one"), controller.address("two")), (None, None));
        controller.file.set(false);
        let checked = first.await;
        assert!(matches!((checked.0, checked.7), (Some(Ok(_)), Some(Ok(_)))));
    };
    // Asked for first, and in this order.
    let (one, other, ()) =
        tokio::join!(controller.handle.reload(Trigger::Signal), controller.handle.reload(Trigger::Api), others);
    assert!(matches!((one, other), (Err(ReloadError::Ending), Err(ReloadError::Ending))));
}

#[tokio::test]
async fn a_text_that_is_sent_is_not_told_which_files_there_are() {
    let controller = TestController::start(&["one"], &[0, 1], WaitLimits::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().join("there.pem");
    std::fs::write(&there, "no certificate").unwrap();
    let mut answers = vec![];
    for file in ["/nowhere/a.pem", "/etc/passwd", "/dev/zero", there.to_str().unwrap()] {
        let named = text(&["one"], "").replace(
            "name: one,",
            &format!("name: one, tls: {{ certificates: [{{ cert: '{file}', key: '{file}' }}], client_auth: {{ ca: '{file}' }} }},"),
        );
        let named =
            named.replace("endpoints:", &format!("tls: {{ ca: '{file}' }}, endpoints:")).replace("'ws:", "'wss:")
                + &format!("admin: {{ bind: '127.0.0.1:0', token_file: '{file}' }}\n");
        let checked =
            controller.handle.request(|done| ControlRequest::Check { text: Some(named), done }).await.unwrap();
        answers.push(checked.unwrap().join("\n").replace(file, "a file"));
    }
    assert!(answers[0].contains("were not looked at"), "{}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
}
