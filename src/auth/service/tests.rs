//! Questions that wait together, against a service on a real socket. One thread polls all of them before anything arrives.

use std::future::Future;
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::upstream::connect::ConnectTarget;

async fn service(allows_on_failure: bool) -> (Arc<AuthService>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = ServiceSettings {
        recheck: None,
        url: format!("http://{address}/auth").parse().unwrap(),
        timeout: Duration::from_secs(20),
        request_headers: None,
        headers: vec![HeaderName::from_static("x-user")],
        subject: None,
        cache: None,
        allows_on_failure,
    };
    let connector = Connector::new(ConnectTarget::Address(address), None);
    let metrics = metrics::Metrics::register(&prometheus::Registry::new()).unwrap().route("all");
    (Arc::new(AuthService::new(settings, connector, 1, metrics).unwrap()), listener)
}

fn fields(value: &'static str) -> HeaderMap {
    [(HeaderName::from_static("cookie"), HeaderValue::from_static(value))].into_iter().collect()
}

/// Takes a question, and answers it.
async fn answer(listener: &TcpListener, answer: &str) {
    say(listener.accept().await.unwrap().0, answer).await;
}

async fn say(mut stream: TcpStream, answer: &str) {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = format!("{answer}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn polled_once<F: Future + Unpin>(future: &mut F) {
    let once = std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_ready()));
    assert!(!once.await, "nobody has answered");
}

/// Whether each is let in as somebody.
fn known(answered: &[Result<Verdict, AskError>]) -> Vec<bool> {
    let is_known = |it: &Result<Verdict, AskError>| matches!(it, Ok(Verdict::Allowed(who)) if who.headers.len() == 1);
    answered.iter().map(is_known).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn equal_questions_that_wait_are_asked_once_and_others_for_themselves() {
    let (service, listener) = service(false).await;
    let (one, other) = (fields("a"), fields("b"));
    let equal = futures_util::future::join_all((0..50).map(|_| service.ask(one.clone())));
    let all = async {
        let (mut equal, mut alone) = (pin!(equal), pin!(service.ask(other)));
        polled_once(&mut equal).await;
        polled_once(&mut alone).await;
        tokio::join!(equal, alone)
    };
    let serving = async {
        answer(&listener, "HTTP/1.1 200 OK\r\nX-User: ann").await;
        answer(&listener, "HTTP/1.1 200 OK").await;
    };
    let ((equal, alone), ()) = tokio::join!(all, serving);
    // Which of the two was asked first is for the sockets to say.
    let is_first = !known(std::slice::from_ref(&alone))[0];
    assert_eq!(known(&equal), [is_first; 50]);
    assert!(matches!(alone, Ok(Verdict::Allowed(_))), "{alone:?}");
    assert_eq!(service.under_way.len(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_for_one_client_alone_is_not_shared() {
    let (service, listener) = service(false).await;
    let question = fields("a");
    let all = futures_util::future::join_all((0..3).map(|_| service.ask(question.clone())));
    let serving = async {
        for login in 0..3 {
            answer(&listener, &format!("HTTP/1.1 302 Found\r\nSet-Cookie: state={login}")).await;
        }
    };
    let (all, ()) = tokio::join!(all, serving);
    let cookie = |it: &Result<Verdict, AskError>| match it {
        Ok(Verdict::Denied(answer)) => answer.headers()["set-cookie"].clone(),
        other => panic!("{other:?}"),
    };
    let mut cookies: Vec<HeaderValue> = all.iter().map(cookie).collect();
    cookies.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    assert_eq!(cookies, ["state=0", "state=1", "state=2"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_failure_is_shared_and_a_client_that_leaves_takes_nobody_along() {
    let (service, listener) = service(false).await;
    let question = fields("a");
    let all = futures_util::future::join_all((0..20).map(|_| service.ask(question.clone())));
    let (all, _) = tokio::join!(all, async { drop(listener.accept().await) });
    assert!(all.iter().all(|it| matches!(it, Err(AskError::Unreachable(_)))), "{all:?}");

    let mut leaver = Box::pin(service.ask(question.clone()));
    polled_once(&mut leaver).await;
    let mut others = Box::pin(futures_util::future::join_all((0..20).map(|_| service.ask(question.clone()))));
    polled_once(&mut others).await;
    drop(leaver);
    let serving = async {
        // Whether the first question was sent is for the sockets to say.
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(say(stream, "HTTP/1.1 200 OK\r\nX-User: ann"));
        }
    };
    let others = tokio::select! {
        others = others => others,
        () = serving => unreachable!("it never ends"),
    };
    assert_eq!(known(&others), [true; 20]);
}

#[test]
fn questions_are_told_apart_by_what_counts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut service, _listener) = runtime.block_on(service(false));
    let with = |fields: &[(&'static str, &'static str)]| -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    };
    let (plain, more) = (with(&[("cookie", "a")]), with(&[("cookie", "a"), ("accept", "b")]));
    assert_ne!(service.digest(&plain), service.digest(&more));
    assert_ne!(service.digest(&with(&[("a", "bc")])), service.digest(&with(&[("a", "b"), ("a", "c")])));
    Arc::get_mut(&mut service).unwrap().settings.cache =
        Some((Duration::from_secs(1), vec![HeaderName::from_static("cookie")]));
    assert_eq!(service.digest(&plain), service.digest(&more));
    for other in [
        with(&[("cookie", "b")]),
        with(&[]),
        with(&[("cookie", "a"), ("cookie", "a")]),
        with(&[("cookie", "a"), ("x-forwarded-for", "192.0.2.1")]),
        with(&[("cookie", "a"), ("x-original-url", "http://a/")]),
    ] {
        assert_ne!(service.digest(&plain), service.digest(&other), "{other:?}");
    }
}
