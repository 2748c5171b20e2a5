//! Retry policies.

use lateen_model::dataplane::{RetryBackOff, RetryOn, RetryPolicy};
use lateen_model::resource::HttpRetry;
use std::time::Duration;

/// What is retried where nothing is written. `retriable-status-codes` matches nothing without a list of codes: a 503 is not
/// retried.
const BUILT_IN: [&str; 5] = ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"];
/// Tries after the first where nothing is written.
const BUILT_IN_ATTEMPTS: u32 = 2;
/// How often another host is looked for because one was tried before.
const HOST_SELECTION_ATTEMPTS: u32 = 5;

/// What a route does: its own policy, else the mesh's, else the built-in one. `None`: no retries.
pub fn policy(mesh: Option<&HttpRetry>, own: Option<&HttpRetry>) -> Option<RetryPolicy> {
    match own.or(mesh) {
        None => Some(built_in()),
        Some(written) => from_written(written),
    }
}

fn built_in() -> RetryPolicy {
    RetryPolicy {
        on: conditions(BUILT_IN.into_iter()).0,
        num_retries: BUILT_IN_ATTEMPTS,
        per_try_timeout: None,
        retriable_statuses: Vec::new(),
        avoid_previous_hosts: true,
        host_selection_attempts: HOST_SELECTION_ATTEMPTS,
        avoid_previous_priorities: None,
        back_off: RetryBackOff::default(),
    }
}

fn from_written(written: &HttpRetry) -> Option<RetryPolicy> {
    let num_retries = u32::try_from(written.attempts).ok().filter(|n| *n > 0)?;
    let (on, retriable_statuses) = match written.retry_on.trim() {
        "" => (built_in().on, Vec::new()),
        list => conditions(list.split(',')),
    };
    Some(RetryPolicy {
        on,
        num_retries,
        per_try_timeout: written.per_try_timeout.map(Duration::from).filter(|t| !t.is_zero()),
        retriable_statuses,
        avoid_previous_hosts: written.retry_ignore_previous_hosts.unwrap_or(true),
        avoid_previous_priorities: written.retry_remote_localities.unwrap_or(false).then_some(2),
        back_off: written.backoff.map_or_else(RetryBackOff::default, |b| back_off(b.get())),
        ..built_in()
    })
}

fn back_off(base: Duration) -> RetryBackOff {
    RetryBackOff { base, max: base.saturating_mul(10) }
}

/// The conditions of a list; a number is a status.
fn conditions<'a>(list: impl Iterator<Item = &'a str>) -> (RetryOn, Vec<u16>) {
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for item in list.map(str::trim) {
        if let Some(condition) = RetryOn::from_name(item) {
            on = on.union(condition);
        } else if let Ok(status) = item.parse::<u16>() {
            statuses.push(status);
        }
    }
    if !statuses.is_empty() {
        on = on.union(RetryOn::RETRIABLE_STATUS_CODES);
    }
    (on, statuses)
}

/// Retries of requests to the application itself: only those that were not sent at all. Of the mesh's own policy the tries,
/// the conditions and the pause count.
pub fn inbound(mesh: Option<&HttpRetry>) -> Option<RetryPolicy> {
    let on = RetryOn::RESET_BEFORE_REQUEST;
    let base = RetryPolicy { on, avoid_previous_hosts: false, host_selection_attempts: 1, ..built_in() };
    let Some(written) = mesh else { return Some(base) };
    let num_retries = u32::try_from(written.attempts).ok().filter(|n| *n > 0)?;
    let (on, retriable_statuses) = match written.retry_on.trim() {
        "" => (on, Vec::new()),
        list => conditions(list.split(',')),
    };
    let back_off = written.backoff.map_or_else(RetryBackOff::default, |b| back_off(b.get()));
    Some(RetryPolicy { on, retriable_statuses, num_retries, back_off, ..base })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_model::resource::ProtoDuration;

    fn names(policy: &RetryPolicy) -> Vec<&'static str> {
        policy.on.names().collect()
    }

    #[test]
    fn built_in_policy() {
        let policy = policy(None, None).unwrap();
        assert_eq!(policy.num_retries, 2);
        assert_eq!(names(&policy), ["connect-failure", "refused-stream", "retriable-status-codes", "cancelled", "unavailable"]);
        assert!(policy.retriable_statuses.is_empty());
        assert!(policy.avoid_previous_hosts);
    }

    #[test]
    fn written_policies() {
        let off = HttpRetry::default();
        assert_eq!(policy(None, Some(&off)), None, "attempts: 0");
        let mesh = HttpRetry { attempts: 4, ..HttpRetry::default() };
        assert_eq!(policy(Some(&mesh), None).unwrap().num_retries, 4);
        assert_eq!(policy(Some(&mesh), Some(&off)), None, "the route's own wins");
        let own = HttpRetry {
            attempts: 3,
            per_try_timeout: Some(ProtoDuration::new(Duration::from_secs(1))),
            retry_on: "gateway-error, connect-failure,503".into(),
            retry_ignore_previous_hosts: Some(false),
            retry_remote_localities: Some(true),
            backoff: Some(ProtoDuration::new(Duration::from_millis(10))),
        };
        let policy = policy(None, Some(&own)).unwrap();
        assert_eq!(names(&policy), ["gateway-error", "connect-failure", "retriable-status-codes"]);
        assert_eq!(policy.retriable_statuses, [503]);
        assert_eq!(policy.per_try_timeout, Some(Duration::from_secs(1)));
        assert!(!policy.avoid_previous_hosts);
        assert_eq!(policy.avoid_previous_priorities, Some(2));
        assert_eq!(policy.back_off, RetryBackOff { base: Duration::from_millis(10), max: Duration::from_millis(100) });
    }

    #[test]
    fn inbound_policy() {
        let policy = inbound(None).unwrap();
        assert_eq!((policy.num_retries, names(&policy)), (2, vec!["reset-before-request"]));
        assert_eq!(inbound(Some(&HttpRetry::default())), None);
    }
}
