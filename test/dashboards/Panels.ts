/**
 * The panels of the Grafana dashboard: for each metric of Millrace at least one, in rows that follow a message from its publisher
 * to its end. `$job` and `$group` are variables of the dashboard.
 */

/** Units of Grafana. */
export type Unit = "s" | "ops" | "Bps" | "short" | "percentunit" | "reqps"

export interface Query {
  readonly expr: string
  /** The name of each line, with labels in double braces. */
  readonly legend: string
}

export interface Panel {
  readonly title: string
  /** One sentence, shown as the panel's help: what the figure means, and what to do when it is high. */
  readonly about: string
  readonly kind: "timeseries" | "stat" | "state-timeline"
  readonly unit: Unit
  /** The metrics that the queries read, by the names of OpenTelemetry. */
  readonly metrics: ReadonlyArray<string>
  readonly queries: ReadonlyArray<Query>
}

export interface Row {
  readonly title: string
  readonly panels: ReadonlyArray<Panel>
}

const job = `job=~"$job"`
const group = `${job}, messaging_consumer_group_name=~"$group"`

/** A channel is labelled by its name, or by its address where that has parameters. */
const channel = "messaging_destination_name, messaging_destination_template"
const channelLegend = "{{messaging_destination_name}}{{messaging_destination_template}}"
const groupLegend = `{{messaging_consumer_group_name}} ${channelLegend}`

/** The 20 largest: a program may have a thousand channels. */
const top = (expr: string): string => `topk(20, ${expr})`

const perSecond = (metric: string, selector: string, by: string): string =>
  `sum by (${by}) (rate(${metric}{${selector}}[$__rate_interval]))`

const quantile = (q: number, metric: string, selector: string, by: string): string =>
  `histogram_quantile(${q}, sum by (le, ${by}) (rate(${metric}_bucket{${selector}}[$__rate_interval])))`

const durations = (metric: string, selector: string, by: string, legend: string): ReadonlyArray<Query> => [
  { expr: top(quantile(0.5, metric, selector, by)), legend: `p50 ${legend}` },
  { expr: top(quantile(0.99, metric, selector, by)), legend: `p99 ${legend}` }
]

const single = (legend: string, expr: string): ReadonlyArray<Query> => [{ expr, legend }]

export const rows: ReadonlyArray<Row> = [
  {
    title: "At a glance",
    panels: [
      {
        title: "Health checks",
        about: "1 is up, 0.5 degraded, 0 down. A check that is down takes the process out of the load balancer.",
        kind: "state-timeline",
        unit: "short",
        metrics: ["millrace.health.up"],
        queries: single("{{check}}", `min by (check) (millrace_health_up{${job}})`)
      },
      {
        title: "Messages that do not move",
        about: "Messages and broker calls that wait for something that does not happen. See the runbook MillraceStuck.",
        kind: "stat",
        unit: "short",
        metrics: ["millrace.consumer.stuck"],
        queries: single(
          "{{millrace_subscription}}",
          `sum by (millrace_subscription) (millrace_consumer_stuck{${group}})`
        )
      },
      {
        title: "Dead letters in the last hour",
        about: "Messages that no attempt could handle, and that lie in the dead letter queue (DLQ).",
        kind: "stat",
        unit: "short",
        metrics: ["millrace.dead_letters"],
        queries: single(
          "{{messaging_destination_name}}",
          `sum by (messaging_destination_name) (increase(millrace_dead_letters{${job}}[1h]) or millrace_dead_letters{${job}} unless millrace_dead_letters{${job}} offset 1h)`
        )
      }
    ]
  },
  {
    title: "Consumers",
    panels: [
      {
        title: "Deliveries",
        about: "Messages that brokers delivered, redeliveries included.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["messaging.client.consumed.messages"],
        queries: single(
          groupLegend,
          top(perSecond("messaging_client_consumed_messages", group, `messaging_consumer_group_name, ${channel}`))
        )
      },
      {
        title: "Messages by how they ended",
        about: "Done, failed, retried, rejected and interrupted messages of consumers.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.messages"],
        queries: single("{{millrace_status}}", perSecond("millrace_messages", group, "millrace_status"))
      },
      {
        title: "Time of the handler",
        about:
          "The time that a message spends in the handler and its middlewares: half of the messages, and 99 of 100.",
        kind: "timeseries",
        unit: "s",
        metrics: ["messaging.process.duration"],
        queries: durations(
          "messaging_process_duration",
          group,
          `messaging_consumer_group_name, ${channel}`,
          groupLegend
        )
      },
      {
        title: "Handlers running",
        about: "Messages that are being handled now. A flat line at the limit means that consumers are the bottleneck.",
        kind: "timeseries",
        unit: "short",
        metrics: ["millrace.in_flight"],
        queries: single(
          groupLegend,
          top(`sum by (messaging_consumer_group_name, ${channel}) (millrace_in_flight{${group}})`)
        )
      },
      {
        title: "Bytes of bodies",
        about: "Bytes of the bodies of messages and requests.",
        kind: "timeseries",
        unit: "Bps",
        metrics: ["millrace.bytes"],
        queries: single(
          `${channelLegend}{{http_route}}{{server_address}}{{url_template}}`,
          top(perSecond("millrace_bytes", job, `${channel}, http_route, server_address, url_template`))
        )
      }
    ]
  },
  {
    title: "Backlog",
    panels: [
      {
        title: "Consumer lag",
        about: "Messages that the consumer group has not settled. Growing lag means that consumers are too slow.",
        kind: "timeseries",
        unit: "short",
        metrics: ["millrace.consumer.lag"],
        // every process of a group reports the lag of the whole group
        queries: single(
          `{{millrace_subscription}} ${groupLegend}`,
          top(
            `max by (millrace_subscription, messaging_consumer_group_name, messaging_destination_name) (millrace_consumer_lag{${group}})`
          )
        )
      },
      {
        title: "Age of the oldest message",
        about: "The time since the oldest unsettled message was published.",
        kind: "timeseries",
        unit: "s",
        metrics: ["millrace.consumer.oldest.age"],
        queries: single(
          "{{millrace_subscription}} {{messaging_destination_name}}",
          top(
            `max by (millrace_subscription, messaging_destination_name) (millrace_consumer_oldest_age{${group}})`
          )
        )
      },
      {
        title: "Settled messages",
        about: "Messages that the processes of the group settle each second.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.consumer.rate"],
        queries: single(
          "{{millrace_subscription}} {{messaging_destination_name}}",
          top(`sum by (millrace_subscription, messaging_destination_name) (millrace_consumer_rate{${group}})`)
        )
      }
    ]
  },
  {
    title: "Failures",
    panels: [
      {
        title: "Dead letters by error",
        about: "Messages that became dead letters, by the type of their last error.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.dead_letters"],
        queries: single(
          "{{messaging_destination_name}} {{error_type}}",
          top(perSecond("millrace_dead_letters", job, "messaging_destination_name, error_type"))
        )
      },
      {
        title: "Dropped dead letters",
        about: "Dead letters that no broker took and the subscription gave up: these messages are lost.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.dead_letters.dropped"],
        queries: single(
          "{{messaging_destination_name}} {{error_type}}",
          perSecond("millrace_dead_letters_dropped", job, "messaging_destination_name, error_type")
        )
      },
      {
        title: "Retries by error",
        about: "Retries in place. A rise with steady traffic shows a dependency that begins to fail.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.retries"],
        queries: single(
          "{{messaging_destination_name}}{{http_route}}{{server_address}} {{error_type}}",
          top(perSecond("millrace_retries", job, "messaging_destination_name, http_route, server_address, error_type"))
        )
      },
      {
        title: "Circuit breakers that open",
        about: "Changes of circuit breakers: an open one pauses its subscriptions or refuses calls.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.circuit.transitions"],
        queries: single(
          "{{circuit}} {{state}}",
          top(perSecond("millrace_circuit_transitions", job, "circuit, state"))
        )
      },
      {
        title: "Answers of fallbacks",
        about: "Messages that were answered by Fallback: callers get a degraded answer.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.fallbacks"],
        queries: single(
          `${channelLegend} {{error_type}}`,
          top(perSecond("millrace_fallbacks", job, `${channel}, error_type`))
        )
      },
      {
        title: "Messages without a rate limit",
        about: "Messages that passed uncounted, since the store of their rate limit did not answer.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.rate_limit.unavailable"],
        queries: single("{{limit}}", perSecond("millrace_rate_limit_unavailable", job, "limit"))
      }
    ]
  },
  {
    title: "Publishers and requests",
    panels: [
      {
        title: "Published messages",
        about: "Messages that publishers sent or tried to send.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["messaging.client.sent.messages"],
        queries: single(channelLegend, top(perSecond("messaging_client_sent_messages", job, channel)))
      },
      {
        title: "Time of a publish",
        about: "The time until the broker has confirmed a message: half of the messages, and 99 of 100.",
        kind: "timeseries",
        unit: "s",
        metrics: ["messaging.client.operation.duration"],
        queries: durations("messaging_client_operation_duration", job, channel, channelLegend)
      },
      {
        title: "Requests whose caller stopped waiting",
        about: "Requests that were not begun since their deadline had passed, and replies that came too late.",
        kind: "timeseries",
        unit: "ops",
        metrics: ["millrace.request.expired", "millrace.request.late"],
        queries: [
          {
            expr: perSecond("millrace_request_expired", job, "messaging_destination_name"),
            legend: "expired {{messaging_destination_name}}"
          },
          {
            expr: perSecond("millrace_request_late", job, "messaging_destination_name"),
            legend: "late {{messaging_destination_name}}"
          }
        ]
      }
    ]
  },
  {
    title: "HTTP",
    panels: [
      {
        title: "Requests by status",
        about: "Requests to the server, by the status of the response.",
        kind: "timeseries",
        unit: "reqps",
        metrics: ["http.server.request.duration"],
        queries: single(
          "{{http_response_status_code}}",
          perSecond("http_server_request_duration_count", job, "http_response_status_code")
        )
      },
      {
        title: "Time of a request",
        about: "The time until the response was complete: half of the requests, and 99 of 100.",
        kind: "timeseries",
        unit: "s",
        metrics: ["http.server.request.duration"],
        queries: durations(
          "http_server_request_duration",
          job,
          "http_request_method, http_route",
          "{{http_request_method}} {{http_route}}"
        )
      },
      {
        title: "Requests to no route",
        about: "404 and 405 for paths that the program does not serve: scanners, or a client with an old address.",
        kind: "timeseries",
        unit: "reqps",
        metrics: ["millrace.http.unmatched"],
        queries: single(
          "{{http_response_status_code}}",
          perSecond("millrace_http_unmatched", job, "http_response_status_code")
        )
      },
      {
        title: "Time of client requests",
        about: "The time of requests to other servers, repeats included: half of the requests, and 99 of 100.",
        kind: "timeseries",
        unit: "s",
        metrics: ["http.client.request.duration"],
        queries: durations(
          "http_client_request_duration",
          job,
          "server_address, url_template",
          "{{server_address}}{{url_template}}"
        )
      }
    ]
  }
]
