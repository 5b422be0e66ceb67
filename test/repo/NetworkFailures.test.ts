import { BrokerError, type BrokerError as Errors } from "@millrace/core"
import * as Http from "../../packages/http/src/internal/failures.ts"
import * as Kafka from "../../packages/kafka/src/internal/Errors.ts"
import * as Mqtt from "../../packages/mqtt/src/internal/Errors.ts"
import * as Nats from "../../packages/nats/src/internal/Errors.ts"
import * as RabbitMq from "../../packages/rabbitmq/src/internal/Errors.ts"
import * as Redis from "../../packages/redis/src/internal/client/Errors.ts"
import { MultipleErrors, NetworkError } from "@platformatic/kafka"
import { HttpClientError, HttpClientRequest } from "effect/http"
import kafkajs from "kafkajs"
import { describe, expect, test } from "vitest"

type Operation = Errors.BrokerError["operation"]

/** What a client makes of an error of Node: its reason, its class and its advice without the names of the place. */
interface Verdict {
  readonly reason: string
  readonly failure: string
  readonly advice: string
}

const same = (text: string) => text
const address = "broker.test:1234"

const verdictOf = ({ failure, message, reason }: Errors.BrokerError): Verdict => ({
  reason,
  failure,
  advice: message.replace("Connection error: ", "")
    .replaceAll(/\b(?:Kafka|RabbitMQ|Redis|NATS|MQTT server|HTTP server)\b/g, "SYSTEM")
    .replaceAll(/correct (?:brokers|url|servers|the URL)\b/g, "correct ADDRESS")
    .replace(
      /: (?:write amqp.*|correct tls.*|correct url or tls|correct ADDRESS or tls|correct the scheme.*)\.$/,
      ": TLS."
    )
})

/** As each client library hands on an error of its socket. */
const clients: Readonly<Record<string, (error: Error & { readonly code: string }, operation: Operation) => Verdict>> = {
  kafkajs: (error, operation) =>
    verdictOf(Kafka.fromUnknown(
      new kafkajs.KafkaJSNumberOfRetriesExceeded(
        new kafkajs.KafkaJSConnectionError(`Connection error: ${error.message}`, { broker: address, code: error.code }),
        { retryCount: 5, retryTime: 100 }
      ),
      operation,
      { brokers: address, speaks: "plain TCP", redact: same }
    )),
  "@platformatic/kafka": (error, operation) =>
    verdictOf(Kafka.fromUnknown(
      // it tells of each of its attempts
      new MultipleErrors(
        "Cannot connect to any broker.",
        Array.from({ length: 40 }, () =>
          new MultipleErrors("Cannot connect.", [
            new NetworkError(`Connection to ${address} failed.`, { cause: error })
          ]))
      ),
      operation,
      { brokers: address, speaks: "plain TCP", redact: same }
    )),
  amqplib: (error, operation) =>
    verdictOf(
      RabbitMq.fromUnknown(error, operation, { nodes: address, user: "u", vhost: "/", speaks: "AMQP", redact: same })
    ),
  ioredis: (error, operation) =>
    verdictOf(Redis.fromUnknown(error, operation, { address, user: "u", speaks: "the plain protocol", redact: same })),
  nats: (error, operation) =>
    verdictOf(Nats.fromUnknown(new Error("connection refused?", { cause: error }), operation, {
      servers: address,
      by: "password",
      redact: same
    })),
  mqtt: (error, operation) =>
    verdictOf(
      Mqtt.fromUnknown(error, operation, { server: address, user: "u", speaks: "TCP", clientId: "c", redact: same })
    ),
  undici: (error) => {
    const request = HttpClientRequest.get(`http://${address}/orders`)
    const cause = new TypeError("fetch failed", { cause: error })
    const failed = Http.ofTransport(
      new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) }),
      true
    )
    // the class of a broker's error of this reason
    return verdictOf(BrokerError.make({
      system: "http",
      operation: "publish",
      reason: failed.reason === "Lost" ? "Lost" : failed.failure === "permanent" ? "Credentials" : "Unreachable",
      message: failed.message.replace(/^GET \S+ (?:was not sent: )?/, ""),
      failure: failed.failure
    }))
  }
}

/** One row for each code: the call that failed, and what all clients say. */
const rows: ReadonlyArray<readonly [code: string, syscall: string, reason: string, failure: string, advice: RegExp]> = [
  ["ECONNREFUSED", "connect", "Unreachable", "dependency", /\(connection refused\): start it/],
  ["EHOSTUNREACH", "connect", "Unreachable", "dependency", /no way to SYSTEM.*EHOSTUNREACH/],
  ["ENETUNREACH", "connect", "Unreachable", "dependency", /no way to SYSTEM.*ENETUNREACH/],
  ["EHOSTDOWN", "connect", "Unreachable", "dependency", /no way to SYSTEM.*EHOSTDOWN/],
  ["ENETDOWN", "connect", "Unreachable", "dependency", /no way to SYSTEM.*ENETDOWN/],
  ["ETIMEDOUT", "connect", "Unreachable", "dependency", /Nothing answers/],
  ["ENOTFOUND", "getaddrinfo", "Unreachable", "dependency", /cannot be resolved: correct ADDRESS/],
  ["EAI_AGAIN", "getaddrinfo", "Unreachable", "dependency", /the name server does not answer/],
  ["EAI_FAIL", "getaddrinfo", "Unreachable", "dependency", /the name server does not answer/],
  ["EMFILE", "connect", "Unreachable", "dependency", /no file descriptor left: raise its limit/],
  ["ENFILE", "connect", "Unreachable", "dependency", /no file descriptor left: raise fs\.file-max/],
  ["ENOBUFS", "connect", "Unreachable", "dependency", /no memory left/],
  ["EADDRNOTAVAIL", "connect", "Unreachable", "dependency", /no free local port/],
  ["CERT_HAS_EXPIRED", "certificate has expired", "Credentials", "permanent", /certificates .* do not fit/],
  ["DEPTH_ZERO_SELF_SIGNED_CERT", "self-signed certificate", "Credentials", "permanent", /Give tls\.ca the authority/],
  ["ERR_TLS_CERT_ALTNAME_INVALID", "altnames", "Credentials", "permanent", /connect by a name that it holds/],
  ["ERR_SSL_WRONG_VERSION_NUMBER", "wrong version number", "Unreachable", "dependency", /does not speak TLS/],
  ["EPROTO", "write", "Unreachable", "dependency", /does not speak TLS/]
]

/** Codes of a connection that was there. */
const ended = [["ECONNRESET", "read"], ["ECONNABORTED", "write"], ["EPIPE", "write"], ["ETIMEDOUT", "read"]] as const

const errorOf = (code: string, syscall: string) => {
  const isCall = ["connect", "read", "write", "getaddrinfo"].includes(syscall)
  const text = isCall ? `${syscall} ${code} 10.0.0.1:1234` : syscall
  return Object.assign(new Error(text), isCall ? { code, syscall } : { code })
}

describe("X5 an error of Node's network, DNS or TLS", () => {
  for (const [code, syscall, reason, failure, advice] of rows) {
    for (const operation of ["connect", "publish"] as const) {
      test(`${code} is the same for all clients that ${operation}`, () => {
        const verdicts = Object.entries(clients).map((
          [client, make]
        ) => [client, make(errorOf(code, syscall), operation)])
        const expected = { reason, failure, advice: expect.stringMatching(advice) as string }
        expect(Object.fromEntries(verdicts)).toEqual(
          Object.fromEntries(Object.keys(clients).map((client) => [client, expected]))
        )
        const texts = verdicts.map(([, verdict]) => (verdict as Verdict).advice)
        expect(new Set(texts).size, texts.join("\n")).toBe(1)
      })
    }
  }

  for (const [code, syscall] of ended) {
    test(`${code} in a ${syscall} is a lost connection, and while connecting a server that cannot be reached`, () => {
      for (const [client, make] of Object.entries(clients)) {
        const { failure, reason } = make(errorOf(code, syscall), "publish")
        expect([client, reason, failure]).toEqual([client, "Lost", "transient"])
        if (client === "undici") continue
        const connecting = make(errorOf(code, syscall), "connect")
        expect([client, connecting.reason, connecting.failure]).toEqual([client, "Unreachable", "dependency"])
      }
    })
  }
})
