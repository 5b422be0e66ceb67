/** For each alert: series with which it fires, and series close to them with which it does not. */

export interface Case {
  /** Series and their values, in Prometheus's notation, one value a minute. */
  readonly input: Readonly<Record<string, string>>
  /** When the alerts are read. */
  readonly at: string
}

export interface AlertCases {
  readonly fires: Case
  readonly quiet: Case
}

const messages = (status: string) =>
  `millrace_messages{job="shop",messaging_consumer_group_name="billing",millrace_status="${status}"}`
const requests = (status: number) =>
  `http_server_request_duration_count{job="shop",http_response_status_code="${status}"}`
const of = (metric: string, labels = "") =>
  `${metric}{job="shop",millrace_subscription="ship",messaging_destination_name="orders"${labels}}`

const counted = (metric: string, labels: string): AlertCases => ({
  fires: { input: { [`${metric}{${labels}}`]: "_x3 1x20" }, at: "8m" },
  quiet: { input: { [`${metric}{${labels}}`]: "7x40" }, at: "35m" }
})

export const cases: Readonly<Record<string, AlertCases>> = {
  MillraceDeadLetters: counted(
    "millrace_dead_letters",
    `job="shop",messaging_destination_name="orders",error_type="Broken"`
  ),
  MillraceDeadLettersDropped: {
    fires: { input: { [of("millrace_dead_letters_dropped")]: "0x3 1x20" }, at: "10m" },
    quiet: { input: { [of("millrace_dead_letters_dropped")]: "1x120" }, at: "110m" }
  },
  MillraceStuck: {
    fires: { input: { [of("millrace_consumer_stuck")]: "0x3 1x10" }, at: "8m" },
    quiet: { input: { [of("millrace_consumer_stuck")]: "0x3 1 0x10" }, at: "8m" }
  },
  MillraceConsumerStopped: {
    fires: { input: { [of("millrace_consumer_lag")]: "5x20", [of("millrace_consumer_rate")]: "0x20" }, at: "15m" },
    quiet: { input: { [of("millrace_consumer_lag")]: "5x20", [of("millrace_consumer_rate")]: "0.1x20" }, at: "15m" }
  },
  MillraceConsumerBehind: {
    fires: { input: { [of("millrace_consumer_oldest_age")]: "400x20" }, at: "10m" },
    quiet: { input: { [of("millrace_consumer_oldest_age")]: "290x20" }, at: "10m" }
  },
  MillraceMessagesFailFast: {
    fires: { input: { [messages("done")]: "0+98x80", [messages("failed")]: "0+2x80" }, at: "75m" },
    quiet: { input: { [messages("done")]: "0+990x80", [messages("failed")]: "0+10x80" }, at: "75m" }
  },
  MillraceMessagesFailSlowly: {
    fires: { input: { [messages("done")]: "0+990x500", [messages("failed")]: "0+10x500" }, at: "480m" },
    quiet: { input: { [messages("done")]: "0+995x500", [messages("failed")]: "0+5x500" }, at: "480m" }
  },
  MillraceHttpErrorsFast: {
    fires: { input: { [requests(200)]: "0+98x80", [requests(503)]: "0+2x80" }, at: "75m" },
    quiet: { input: { [requests(200)]: "0+50x80", [requests(404)]: "0+50x80", [requests(500)]: "0+0x80" }, at: "75m" }
  },
  MillraceHttpErrorsSlowly: {
    fires: { input: { [requests(200)]: "0+990x500", [requests(500)]: "0+10x500" }, at: "480m" },
    quiet: { input: { [requests(200)]: "0+995x500", [requests(500)]: "0+5x500" }, at: "480m" }
  },
  MillraceDependencyDown: {
    fires: { input: { [`millrace_health_up{job="shop",check="database"}`]: "1x3 0x10" }, at: "8m" },
    quiet: { input: { [`millrace_health_up{job="shop",check="database"}`]: "1x3 0.5x10" }, at: "8m" }
  },
  MillraceCircuitOpen: {
    fires: {
      input: { [`millrace_circuit_transitions{job="shop",circuit="stock",state="open"}`]: "_x3 1x20" },
      at: "8m"
    },
    quiet: {
      input: { [`millrace_circuit_transitions{job="shop",circuit="stock",state="closed"}`]: "_x3 1x20" },
      at: "8m"
    }
  },
  MillraceRetriesRise: {
    fires: {
      input: { [of("millrace_retries")]: "0+60x40", [of("messaging_client_consumed_messages")]: "0+100x40" },
      at: "35m"
    },
    quiet: {
      input: { [of("millrace_retries")]: "0+40x40", [of("messaging_client_consumed_messages")]: "0+100x40" },
      at: "35m"
    }
  },
  MillraceDegraded: counted("millrace_fallbacks", `job="shop",messaging_destination_name="orders",error_type="Down"`),
  MillraceRateLimitUnavailable: counted("millrace_rate_limit_unavailable", `job="shop",limit="customer"`),
  MillraceRequestsExpire: {
    fires: { input: { [of("millrace_request_expired")]: "_x3 0+1x20" }, at: "15m" },
    quiet: { input: { [of("millrace_request_expired")]: "3x40" }, at: "35m" }
  }
}
