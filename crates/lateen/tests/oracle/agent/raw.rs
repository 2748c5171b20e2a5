//! Bytes as they are, and what comes back until the other side ends the connection or falls silent.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Opened, connect_for, describe, millis, now};
use crate::op::{Bytes, End, Exchange};

pub(super) async fn exchange(bytes: &Bytes) -> Exchange {
    let (start, began) = (Instant::now(), now());
    let Opened { mut stream, local, tls } = match connect_for(&bytes.address, bytes.tls.as_ref(), bytes.reset).await {
        Ok(opened) => opened,
        Err(failed) => return Exchange { error: Some(failed.error), local: failed.local, began, ..Exchange::default() },
    };
    let mut exchange = Exchange { local, tls, began, end: Some(End::Open), ..Exchange::default() };
    let quiet = Duration::from_millis(bytes.quiet);
    let parts = bytes.parts.len().max(1);
    for index in 0..parts {
        if let Some(part) = bytes.parts.get(index)
            && stream.write_all(part).await.is_err()
        {
            exchange.end = Some(End::Reset);
            break;
        }
        if index + 1 == parts && bytes.finish {
            // Fails if the other side has ended already, which the next read tells.
            let _ = stream.shutdown().await;
        }
        loop {
            match timeout(quiet, stream.read_buf(&mut exchange.body)).await {
                Err(_) => break,
                Ok(Ok(0)) => exchange.end = Some(End::Closed),
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => {
                    exchange.end = Some(End::Reset);
                    exchange.error = Some(describe(error)).filter(|error| error != "reset");
                }
            }
            exchange.millis = millis(start);
            return exchange;
        }
    }
    exchange.millis = millis(start);
    exchange
}
