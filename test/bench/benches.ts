import { audit } from "./audit.ts"
import { backlog } from "./backlog.ts"
import type { Bench } from "./Bench.ts"
import { claimCheck } from "./claims.ts"
import { observing, validation } from "./concerns.ts"
import { broker } from "./broker.ts"
import { codecs } from "./codecs.ts"
import { dispatch } from "./dispatch.ts"
import { encryption } from "./encryption.ts"
import { fairness } from "./fairness.ts"
import { http } from "./http.ts"
import { kafka } from "./kafka.ts"
import { idempotency } from "./idempotency.ts"
import { keyed } from "./keyed.ts"
import { memory } from "./memory.ts"
import { mqtt } from "./mqtt.ts"
import { nats } from "./nats.ts"
import { outbox } from "./outbox.ts"
import { rabbitmq } from "./rabbitmq.ts"
import { ratelimit } from "./ratelimit.ts"
import { redacting } from "./redaction.ts"
import { redis } from "./redis.ts"
import { security } from "./security.ts"
import { stack } from "./stack.ts"
import { startup } from "./startup.ts"
import { workflow } from "./workflow.ts"
import { wrappers } from "./wrappers.ts"

/** Those that need real servers; Kafka's may be given by its address. */
export const onServers: ReadonlyArray<string> = [
  "kafka",
  "redis",
  "nats",
  "rabbitmq",
  "mqtt",
  "idempotency",
  "ratelimit",
  "backlog",
  "outbox",
  "workflow",
  "claims"
]

/** Every benchmark, in the order of the goals. */
export const benches: ReadonlyArray<Bench> = [
  dispatch,
  wrappers,
  broker,
  stack,
  audit,
  kafka,
  redis,
  nats,
  rabbitmq,
  mqtt,
  http,
  validation,
  observing,
  redacting,
  idempotency,
  ratelimit,
  security,
  encryption,
  claimCheck,
  codecs,
  keyed,
  memory,
  fairness,
  backlog,
  outbox,
  startup,
  workflow
]
