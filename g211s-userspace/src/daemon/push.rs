//! Pushing to an OpenTelemetry collector: when, and what became of it. Must not know the protocol.

use super::config::Label;
use super::{Agent, otlp, tenants, wall_ns};
use crate::agent::now_ns;
use crate::agent::run::Sink as _;

impl Agent {
    /// Pushes metrics, and what happened since the last time.
    pub(super) fn push(&mut self) {
        let Some(otlp) = self.config.otlp.clone() else { return };
        let now = wall_ns();
        let families = self.families();
        let metrics = self.speaker.metrics(&families, now);
        let events = self.run.sink.events.as_mut().map(std::mem::take).unwrap_or_default();
        let events: Vec<_> = events.into();
        let logs = (otlp.logs && !events.is_empty()).then(|| {
            let ahead = now.saturating_sub(now_ns());
            let who = |index: u8| {
                let candidate = self.tenants.get(index);
                let all = [
                    Label::Executable,
                    Label::Module,
                    Label::GoVersion,
                    Label::Container,
                    Label::Pid,
                ];
                candidate.map(|c| tenants::identity(c, &all)).unwrap_or_default()
            };
            self.speaker.logs(&events, who, |ns| ns + ahead, now)
        });
        let told = self.pushed.0.clone();
        tokio::spawn(async move {
            let mut result =
                otlp::post(&otlp.endpoint, "/v1/metrics", &otlp.headers, &metrics).await;
            if let (Ok(()), Some(logs)) = (&result, logs) {
                result = otlp::post(&otlp.endpoint, "/v1/logs", &otlp.headers, &logs).await;
            }
            // The agent has ended.
            let _ = told.send(result.map_err(|e| format!("{e:#}")));
        });
    }

    pub(super) fn was_pushed(&mut self, result: Result<(), String>) {
        let failed = *self.own.pushes.get("failed").unwrap_or(&0);
        match result {
            Ok(()) => *self.own.pushes.entry("done").or_default() += 1,
            Err(why) => {
                // Said at the first, the tenth, the hundredth …
                if failed == 0 || (failed + 1).to_string().trim_end_matches('0') == "1" {
                    self.run
                        .sink
                        .say(&format!("pushing failed ({} times so far): {why}", failed + 1));
                }
                *self.own.pushes.entry("failed").or_default() += 1;
            }
        }
    }
}
