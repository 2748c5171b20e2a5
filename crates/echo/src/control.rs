//! Misbehaviour on demand: `POST /control` adds a fault or changes readiness, `GET` shows the state, `DELETE` resets it.
//!
//! A body is one JSON object; every field is optional, unknown fields are refused:
//!
//! ```json
//! {
//!   "ready": false,
//!   "fail": 503,
//!   "delay": "1.5s",
//!   "hang": true,
//!   "close": "before_response",
//!   "next": 5,
//!   "share": 0.3,
//!   "path": "/v1/",
//!   "method": "POST"
//! }
//! ```
//!
//! - `ready`: whether `/healthz` answers 200 or 503. Alone it adds no fault.
//! - `fail` (answer this status, 200 to 599), `hang` (never answer; the connection ends after ten minutes or when the server stops) and `close` (`before_response`: end the connection
//!   without an answer; `mid_response`: after half of an answer) exclude each other; `delay` goes with any of them or alone.
//! - `next`: the fault ends after so many requests; without it, it lasts until the reset.
//! - `share`: the fault takes this share of the requests it is asked about (0 < share ≤ 1), evenly spread and exact:
//!   0.25 takes every fourth.
//! - `path` (prefix) and `method` limit which requests are asked about.
//!
//! Faults are asked in the order in which they were added, and the first that takes a request decides. `/healthz`,
//! `/control` and `/traces`, gRPC health checks and received spans are never taken.

use crate::duration;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest delay that can be asked for.
pub const MAX_DELAY: Duration = Duration::from_secs(600);

/// How many faults can stand at once; more is a mistake of a script.
const MAX_FAULTS: usize = 64;

/// The body of `POST /control`, before it is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    ready: Option<bool>,
    fail: Option<u16>,
    delay: Option<String>,
    hang: Option<bool>,
    close: Option<Close>,
    next: Option<u64>,
    share: Option<f64>,
    path: Option<String>,
    method: Option<String>,
}

/// Where in the answer the connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Close {
    /// Before the first byte of an answer.
    BeforeResponse,
    /// After the head and half of the announced body.
    MidResponse,
}

/// What happens to a request that a fault takes, after the delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is answered as if nothing were.
    Answer,
    /// It is answered with this status.
    Fail(u16),
    /// It is never answered; its connection ends after [`MAX_DELAY`] or when the server stops.
    Hang,
    /// Its connection is ended.
    Close(Close),
}

/// What a request has to suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Waited first.
    pub delay: Duration,
    /// Then done.
    pub outcome: Outcome,
}

/// One fault, as `GET /control` shows it.
#[derive(Debug, Serialize)]
struct Fault {
    outcome: Outcome,
    #[serde(rename = "delay_ms", serialize_with = "as_millis")]
    delay: Duration,
    /// Requests that it will still take; none is without end.
    left: Option<u64>,
    share: f64,
    path: Option<String>,
    method: Option<String>,
    /// Requests that it has taken.
    taken: u64,
    /// What is owed of the share so far, in requests; it takes one whenever this reaches 1.
    #[serde(skip)]
    owed: f64,
}

fn as_millis<S: serde::Serializer>(delay: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(delay.as_secs_f64() * 1e3)
}

impl Fault {
    fn takes(&mut self, method: &str, path: &str) -> bool {
        let asked = self.path.as_deref().is_none_or(|prefix| path.starts_with(prefix))
            && self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
        if !asked || self.left == Some(0) {
            return false;
        }
        self.owed += self.share;
        // The tolerance keeps ten times 0.1 a whole request.
        if self.owed < 1.0 - 1e-9 {
            return false;
        }
        self.owed -= 1.0;
        self.taken += 1;
        self.left = self.left.map(|left| left - 1);
        true
    }
}

/// The state behind `/control`.
#[derive(Debug)]
pub struct Control {
    state: Mutex<State>,
    requests: AtomicU64,
}

#[derive(Debug)]
struct State {
    ready: bool,
    faults: Vec<Fault>,
}

impl Default for Control {
    fn default() -> Self {
        Self { state: Mutex::new(State { ready: true, faults: Vec::new() }), requests: AtomicU64::new(0) }
    }
}

impl Control {
    /// Carries out the body of a `POST /control`; a body that is not understood changes nothing.
    pub fn order(&self, body: &[u8]) -> Result<(), String> {
        let order: Order = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let ready = order.ready;
        let fault = order.fault()?;
        if ready.is_none() && fault.is_none() {
            return Err("nothing to do: give ready, fail, delay, hang or close".into());
        }
        let mut state = self.lock();
        if let Some(fault) = fault {
            state.faults.retain(|fault| fault.left != Some(0));
            if state.faults.len() >= MAX_FAULTS {
                return Err(format!("{MAX_FAULTS} faults stand already: DELETE /control first"));
            }
            state.faults.push(fault);
        }
        if let Some(ready) = ready {
            state.ready = ready;
        }
        Ok(())
    }

    /// Removes every fault and turns ready.
    pub fn reset(&self) {
        *self.lock() = State { ready: true, faults: Vec::new() };
    }

    /// Whether `/healthz` answers 200.
    pub fn ready(&self) -> bool {
        self.lock().ready
    }

    /// Counts a request and says what it has to suffer.
    pub fn judge(&self, method: &str, path: &str) -> Option<Verdict> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let fault = state.faults.iter_mut().find_map(|fault| fault.takes(method, path).then_some(&*fault))?;
        Some(Verdict { delay: fault.delay, outcome: fault.outcome })
    }

    /// The state as JSON: `ready`, `requests` (all that were judged), `faults`.
    pub fn show(&self) -> serde_json::Value {
        let state = self.lock();
        serde_json::json!({
            "ready": state.ready,
            "requests": self.requests.load(Ordering::Relaxed),
            "faults": state.faults,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a whole one, so a panicking holder leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    fn fault(self) -> Result<Option<Fault>, String> {
        let delay = self.delay.as_deref().map(|text| duration::parse(text, MAX_DELAY)).transpose();
        let delay = delay.map_err(|reason| format!("delay: {reason}"))?;
        let outcome = match (self.fail, self.hang.unwrap_or(false), self.close) {
            (None, false, None) => Outcome::Answer,
            (Some(status @ 200..=599), false, None) => Outcome::Fail(status),
            (Some(status), false, None) => return Err(format!("fail: {status} is not a status from 200 to 599")),
            (None, true, None) => Outcome::Hang,
            (None, false, Some(close)) => Outcome::Close(close),
            _ => return Err("fail, hang and close exclude each other".into()),
        };
        let share = self.share.unwrap_or(1.0);
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!("share: {share} is not above 0 and at most 1"));
        }
        if self.next == Some(0) {
            return Err("next: 0 requests are none".into());
        }
        if outcome == Outcome::Answer && delay.is_none() {
            let selectors = self.next.is_some() || self.share.is_some() || self.path.is_some() || self.method.is_some();
            let reason = "next, share, path and method need one of fail, delay, hang and close";
            return if selectors { Err(reason.into()) } else { Ok(None) };
        }
        Ok(Some(Fault {
            outcome,
            delay: delay.unwrap_or_default(),
            left: self.next,
            share,
            path: self.path,
            method: self.method,
            taken: 0,
            owed: 0.0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Close, Control, Outcome, Verdict};
    use std::time::Duration;

    fn outcomes(control: &Control, count: usize) -> Vec<Option<Outcome>> {
        (0..count).map(|_| control.judge("GET", "/x").map(|verdict| verdict.outcome)).collect()
    }

    #[test]
    fn next_ends_after_its_count() {
        let control = Control::default();
        control.order(br#"{"fail":503,"next":2}"#).expect("valid");
        assert_eq!(outcomes(&control, 3), [Some(Outcome::Fail(503)), Some(Outcome::Fail(503)), None]);
        assert_eq!(control.show()["faults"][0]["taken"], 2);
        assert_eq!(control.show()["requests"], 3);
    }

    #[test]
    fn share_is_exact_and_even() {
        let control = Control::default();
        control.order(br#"{"hang":true,"share":0.1}"#).expect("valid");
        let taken = outcomes(&control, 1000);
        assert_eq!(taken.iter().flatten().count(), 100);
        assert!(taken.chunks(10).all(|ten| ten.iter().flatten().count() == 1));
    }

    #[test]
    fn path_and_method_select() {
        let control = Control::default();
        control.order(br#"{"fail":500,"path":"/v1/","method":"post"}"#).expect("valid");
        assert_eq!(control.judge("GET", "/v1/a"), None);
        assert_eq!(control.judge("POST", "/v2"), None);
        assert!(control.judge("POST", "/v1/a").is_some());
    }

    #[test]
    fn delay_goes_with_an_outcome_and_the_first_fault_decides() {
        let control = Control::default();
        control.order(br#"{"delay":"20ms","close":"mid_response","next":1}"#).expect("valid");
        control.order(br#"{"fail":500}"#).expect("valid");
        let first = Verdict { delay: Duration::from_millis(20), outcome: Outcome::Close(Close::MidResponse) };
        assert_eq!(control.judge("GET", "/"), Some(first));
        assert_eq!(outcomes(&control, 1), [Some(Outcome::Fail(500))]);
        control.reset();
        assert_eq!(outcomes(&control, 1), [None]);
    }

    #[test]
    fn readiness_alone_adds_no_fault() {
        let control = Control::default();
        control.order(br#"{"ready":false}"#).expect("valid");
        assert!(!control.ready());
        assert_eq!(control.show()["faults"].as_array().map(Vec::len), Some(0));
    }

    #[test]
    fn wrong_orders_are_refused_and_change_nothing() {
        let control = Control::default();
        for (body, hint) in [
            (r#"{}"#, "nothing to do"),
            (r#"{"fial":503}"#, "fial"),
            (r#"{"fail":700}"#, "700"),
            (r#"{"fail":503,"hang":true}"#, "exclude"),
            (r#"{"delay":"5"}"#, "delay"),
            (r#"{"delay":"2h"}"#, "longer"),
            (r#"{"fail":503,"share":0}"#, "share"),
            (r#"{"fail":503,"share":1.5}"#, "share"),
            (r#"{"fail":503,"next":0}"#, "next"),
            (r#"{"close":"sometimes"}"#, "sometimes"),
            (r#"{"ready":false,"next":3}"#, "need one of"),
            ("[1]", "invalid"),
        ] {
            let error = control.order(body.as_bytes()).expect_err(body);
            assert!(error.contains(hint), "{body}: {error}");
        }
        assert!(control.ready());
        assert_eq!(outcomes(&control, 1), [None]);
    }
}
