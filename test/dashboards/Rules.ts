/** The recording and alerting rules for Prometheus, each alert with its runbook. */

export interface Alert {
  readonly name: string
  readonly severity: "critical" | "warning"
  readonly expr: string
  /** How long the expression must hold. Default: at once. */
  readonly for?: string
  /** How long the alert goes on after the expression holds no more. */
  readonly keepFiringFor?: string
  readonly summary: string
  /** The metrics that the expression reads, by the names of OpenTelemetry. */
  readonly metrics: ReadonlyArray<string>
}

export interface Recording {
  readonly record: string
  readonly expr: string
}

/** Grows within the window, also where the counter's first sample is already 1: `increase` shows nothing of a first sample. */
const grows = (metric: string, window: string): string =>
  `increase(${metric}[${window}]) > 0 or (${metric} > 0 unless ${metric} offset ${window})`

/** Windows of the burn rate rules of Google's SRE workbook, chapter 5: a long window, and a short one that ends the alert soon. */
const windows = ["5m", "30m", "1h", "6h"] as const

/** The share of requests and messages that may fail: 0.1 % of a month, by these rules. */
const budget = 0.001

const messageLabels = "job, messaging_consumer_group_name"

export const recordings: ReadonlyArray<Recording> = windows.flatMap((window) => [
  {
    record: `millrace:messages_failed:ratio_rate${window}`,
    expr:
      `sum by (${messageLabels}) (rate(millrace_messages{millrace_status="failed", messaging_consumer_group_name!=""}[${window}]))`
      + ` / sum by (${messageLabels}) (rate(millrace_messages{messaging_consumer_group_name!=""}[${window}]))`
  },
  {
    record: `millrace:http_server_errors:ratio_rate${window}`,
    expr: `sum by (job) (rate(http_server_request_duration_count{http_response_status_code=~"5.."}[${window}]))`
      + ` / sum by (job) (rate(http_server_request_duration_count[${window}]))`
  }
])

const burns = (ratio: string, factor: number, long: string, short: string): string =>
  `${ratio}_rate${long} > ${factor} * ${budget} and ${ratio}_rate${short} > ${factor} * ${budget}`

const failed = "millrace:messages_failed:ratio"
const errors = "millrace:http_server_errors:ratio"

export const alerts: ReadonlyArray<Alert> = [
  {
    name: "MillraceDeadLetters",
    severity: "warning",
    expr: grows("millrace_dead_letters", "10m"),
    summary: "Messages of {{ $labels.messaging_destination_name }} became dead letters: {{ $labels.error_type }}",
    metrics: ["millrace.dead_letters"]
  },
  {
    name: "MillraceDeadLettersDropped",
    severity: "critical",
    expr: grows("millrace_dead_letters_dropped", "1h"),
    summary: "Messages of {{ $labels.messaging_destination_name }} are lost: no broker took their dead letters",
    metrics: ["millrace.dead_letters.dropped"]
  },
  {
    name: "MillraceStuck",
    severity: "critical",
    expr: "max by (job, millrace_subscription, messaging_destination_name) (millrace_consumer_stuck) > 0",
    for: "2m",
    summary: "{{ $value }} messages or broker calls of {{ $labels.millrace_subscription }} do not move",
    metrics: ["millrace.consumer.stuck"]
  },
  {
    name: "MillraceConsumerStopped",
    severity: "critical",
    expr: "max by (job, millrace_subscription, messaging_destination_name) (millrace_consumer_lag) > 0"
      + " and on (job, millrace_subscription, messaging_destination_name)"
      + " sum by (job, millrace_subscription, messaging_destination_name) (millrace_consumer_rate) == 0",
    for: "10m",
    summary: "{{ $labels.millrace_subscription }} has {{ $value }} unsettled messages and settles none",
    metrics: ["millrace.consumer.lag", "millrace.consumer.rate"]
  },
  {
    name: "MillraceConsumerBehind",
    severity: "warning",
    expr: "max by (job, millrace_subscription, messaging_destination_name) (millrace_consumer_oldest_age) > 300",
    for: "5m",
    keepFiringFor: "5m",
    summary:
      "The oldest message of {{ $labels.messaging_destination_name }} has waited for {{ $value | humanizeDuration }}",
    metrics: ["millrace.consumer.oldest.age"]
  },
  {
    name: "MillraceMessagesFailFast",
    severity: "critical",
    expr: burns(failed, 14.4, "1h", "5m"),
    for: "2m",
    summary: "{{ $value | humanizePercentage }} of the messages of {{ $labels.messaging_consumer_group_name }} fail",
    metrics: ["millrace.messages"]
  },
  {
    name: "MillraceMessagesFailSlowly",
    severity: "warning",
    expr: burns(failed, 6, "6h", "30m"),
    for: "15m",
    summary: "{{ $value | humanizePercentage }} of the messages of {{ $labels.messaging_consumer_group_name }} fail",
    metrics: ["millrace.messages"]
  },
  {
    name: "MillraceHttpErrorsFast",
    severity: "critical",
    expr: burns(errors, 14.4, "1h", "5m"),
    for: "2m",
    summary: "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} are answered by 5xx",
    metrics: ["http.server.request.duration"]
  },
  {
    name: "MillraceHttpErrorsSlowly",
    severity: "warning",
    expr: burns(errors, 6, "6h", "30m"),
    for: "15m",
    summary: "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} are answered by 5xx",
    metrics: ["http.server.request.duration"]
  },
  {
    name: "MillraceDependencyDown",
    severity: "critical",
    expr: "min by (job, check) (millrace_health_up) == 0",
    for: "1m",
    summary: "The health check {{ $labels.check }} of {{ $labels.job }} is down",
    metrics: ["millrace.health.up"]
  },
  {
    name: "MillraceCircuitOpen",
    severity: "warning",
    expr: grows(`millrace_circuit_transitions{state="open"}`, "10m"),
    summary: "The circuit breaker {{ $labels.circuit }} opened",
    metrics: ["millrace.circuit.transitions"]
  },
  {
    name: "MillraceRetriesRise",
    severity: "warning",
    expr: "sum by (job, messaging_destination_name) (rate(millrace_retries{messaging_destination_name!=\"\"}[10m]))"
      + " > 0.5 * sum by (job, messaging_destination_name) (rate(messaging_client_consumed_messages[10m]))",
    for: "10m",
    summary: "Every second message of {{ $labels.messaging_destination_name }} is retried",
    metrics: ["millrace.retries", "messaging.client.consumed.messages"]
  },
  {
    name: "MillraceDegraded",
    severity: "warning",
    expr: grows("millrace_fallbacks", "10m"),
    keepFiringFor: "10m",
    summary: "Fallbacks answer for {{ $labels.messaging_destination_name }}: {{ $labels.error_type }}",
    metrics: ["millrace.fallbacks"]
  },
  {
    name: "MillraceRateLimitUnavailable",
    severity: "warning",
    expr: grows("millrace_rate_limit_unavailable", "10m"),
    summary: "The store of the rate limit {{ $labels.limit }} does not answer, and messages pass uncounted",
    metrics: ["millrace.rate_limit.unavailable"]
  },
  {
    name: "MillraceRequestsExpire",
    severity: "warning",
    expr: grows("millrace_request_expired", "10m"),
    for: "5m",
    summary: "Requests to {{ $labels.messaging_destination_name }} are not begun before their callers stop waiting",
    metrics: ["millrace.request.expired"]
  }
]

/** Where the runbooks lie. */
export const runbooks = "https://github.com/millrace/millrace/blob/main/docs/runbooks"

// plain scalars of YAML would give meaning to colons and braces
const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`

const lines = (text: string): string =>
  `|-\n          ${text.replaceAll(" or (", "\n          or (").replaceAll(" and ", "\n          and ")}`

const alertLines = ({ expr, for: holds, keepFiringFor, name, severity, summary }: Alert): ReadonlyArray<string> =>
  [
    `      - alert: ${name}`,
    `        expr: ${lines(expr)}`,
    holds === undefined ? "" : `        for: ${holds}`,
    keepFiringFor === undefined ? "" : `        keep_firing_for: ${keepFiringFor}`,
    "        labels:",
    `          severity: ${severity}`,
    "        annotations:",
    `          summary: ${quoted(summary)}`,
    `          runbook_url: ${runbooks}/${name}.md`
  ].filter((line) => line !== "")

/** The rules as a file for Prometheus. */
export const yaml = (): string =>
  [
    "# Rules for the metrics of Millrace. Made by: npx -y pnpm@12 dashboards",
    "groups:",
    "  - name: millrace-recordings",
    "    rules:",
    ...recordings.flatMap(({ expr, record }) => [`      - record: ${record}`, `        expr: ${lines(expr)}`]),
    "  - name: millrace-alerts",
    "    rules:",
    ...alerts.flatMap(alertLines),
    ""
  ].join("\n")
