/**
 * What the pipeline runs on. Another broker or another database is another Layer here, and nothing else.
 */
import {
  type Audit,
  type Auth,
  type Broker,
  type BrokerError,
  MemoryBroker,
  Metrics,
  type RateLimit
} from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { AuditPostgres, AuditSqlite } from "@millrace/sql"
import { Kafka as KafkaServer, type ServerFailed, type ServerUnavailable } from "@millrace/testing/servers"
import { Console, Effect, Layer, Redacted } from "effect"
import * as Delays from "./delays.ts"
import * as Payments from "./payments.ts"
import * as Spans from "./spans.ts"
import * as Tokens from "./tokens.ts"

export interface Options {
  readonly broker: "memory" | "kafka"
  /** Of a Kafka that runs already, `host:port`; without it one is started for the run. */
  readonly brokers: string | undefined
  /** A SQLite file, or the URL of a PostgreSQL. */
  readonly audit: string
}

const startKafka = Effect.andThen(Console.log("Starting a Kafka; the first time it is downloaded"), KafkaServer.make())

const brokers = {
  memory: () => MemoryBroker.layer(),
  kafka: ({ brokers }: Options) =>
    brokers === undefined
      ? Layer.unwrap(Effect.map(startKafka, (server) => Kafka.layer({ brokers: server.brokers })))
      : Kafka.layer({ brokers })
}

const audit = (place: string) =>
  /^postgres(ql)?:/.test(place)
    ? AuditPostgres.layer({ url: Redacted.make(place) })
    : AuditSqlite.layer({ filename: place })

/** What the pipeline, its clients and its report need. */
export type Services =
  | Audit.Store
  | Auth.Verifier
  | Broker.Broker
  | Metrics.Registry
  | RateLimit.Store
  | Delays.Delays
  | Payments.Payments
  | Spans.Spans
  | Tokens.Issuer

export type Failures = Audit.AuditError | BrokerError.BrokerError | ServerFailed | ServerUnavailable

export const layer = (options: Options): Layer.Layer<Services, Failures> =>
  Layer.mergeAll(
    brokers[options.broker](options),
    audit(options.audit),
    Metrics.layer,
    Delays.layer,
    Payments.layerTest,
    Tokens.layerVerifier.pipe(Layer.provideMerge(Tokens.layerIssuer)),
    Spans.layer
  )
