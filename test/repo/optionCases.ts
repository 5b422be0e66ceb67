/** The options of every module that are durations or counts, and how each module is made with them. */
import {
  Audit,
  Batch,
  Bulkhead,
  Channel,
  CircuitBreaker,
  ConsumerLag,
  Gather,
  Health,
  Hedge,
  Idempotency,
  KillSwitch,
  Log,
  MemoryBroker,
  Metrics,
  Outcome,
  Publisher,
  RateLimit,
  Request,
  Retry,
  Subscription,
  TaskStore,
  Timeout,
  Trace
} from "@millrace/core"
import { ClaimFile, Claims, ClaimS3, ClaimSql } from "@millrace/claims"
import * as ClaimNats from "@millrace/claims/ClaimNats"
import { Avro, CloudEvents, Compression, Csv, MessagePack, SchemaRegistry, Text, Upcast } from "@millrace/codecs"
import { Keys, Kms, SubjectKeys } from "@millrace/crypto"
import { Body, Caller, Cors, IdempotencyKey, Problem, Server, Sink, Webhook } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import * as NodeServer from "@millrace/http/NodeServer"
import { Kafka } from "@millrace/kafka"
import { Dashboard, MonitorRoutes } from "@millrace/dashboard"
import { AlertRule, Fold, Monitor, MonitorSql, Preset } from "@millrace/monitor"
import * as AlertEmail from "@millrace/monitor/AlertEmail"
import { Mqtt } from "@millrace/mqtt"
import { JetStream, Nats } from "@millrace/nats"
import { Protobuf } from "@millrace/protobuf"
import { Program } from "@millrace/program"
import { RabbitMq } from "@millrace/rabbitmq"
import { IdempotencyRedis, RateLimitRedis, RedisLists, RedisStreams, TaskStoreRedis } from "@millrace/redis"
import { ApiKey, Hmac, Jwt } from "@millrace/security"
import {
  AuditPostgres,
  AuditSqlite,
  IdempotencyPostgres,
  IdempotencySqlite,
  Inbox,
  Outbox,
  OutboxRelay,
  RateLimitPostgres,
  RateLimitSqlite,
  SqlHealth,
  SqliteClient,
  TaskStorePostgres
} from "@millrace/sql"
import { Temporal, TemporalWorker } from "@millrace/temporal"
import { Activity, StartWorkflow, WorkflowType } from "@millrace/workflow"
import { EmptySchema } from "@bufbuild/protobuf/wkt"
import { Task, Tasks, Worker } from "@millrace/tasks"
import { BrokerContract, Simulation } from "@millrace/testing"
import { Effect, Layer, Redacted, Schema } from "effect"
import { createServer } from "node:http"

/** A constructor, given its options; `base` is what it cannot do without. */
export interface Made {
  readonly make: (options: never) => unknown
  readonly base?: object
  /** Options by their path, e.g. `consumer.claim`. */
  readonly durations?: ReadonlyArray<string>
  readonly numbers?: ReadonlyArray<string>
  /** Durations that may be `Infinity`, which means never or without end. */
  readonly endless?: ReadonlyArray<string>
}

const key = "012345678901234567890123456789012"
const local = Redacted.make("postgres://nobody@127.0.0.1:1/none")
const bytes = Channel.bytes("a")
const jwt = { issuer: "i", audience: "a", algorithms: ["RS256"] }
const subject = {
  capabilities: { ordering: "none" },
  driver: { capabilities: {} },
  start: Effect.void,
  stop: Effect.void
}

const set = { keys: { a: Redacted.make(new Uint8Array(32)) }, writing: "a" } as const
const anyTask = Task.make("any", { payload: Schema.String })
const tasksMemory = Layer.merge(MemoryBroker.layer(), TaskStore.layerMemory())
const tasksOfMemory = Tasks.layer().pipe(Layer.provide(tasksMemory))

export const made: Readonly<Record<string, ReadonlyArray<Made>>> = {
  "claims/src/Claims.ts": [
    { make: Claims.transform, numbers: ["threshold", "maximumBytes"], durations: ["grace", "retryAfter", "timeout"] },
    {
      make: (options) => Claims.stream(Claims.Claim.carried("a", new Uint8Array(1)), options),
      numbers: ["offset"]
    }
  ],
  "claims/src/ClaimS3.ts": [{
    make: ClaimS3.layer,
    base: { bucket: "bodies", region: "eu-central-1", credentials: { accessKeyId: "a", secretAccessKey: "b" } },
    numbers: ["partBytes", "attempts"],
    durations: ["timeout"]
  }],
  "claims/src/ClaimFile.ts": [{
    make: ClaimFile.layer,
    base: { directory: "claims" },
    durations: ["retention"],
    endless: ["retention"]
  }],
  "claims/src/ClaimSql.ts": [{
    make: ClaimSql.layer,
    base: { retention: "1 day" },
    durations: ["timeout", "retention"],
    endless: ["retention"]
  }],
  "claims/src/ClaimNats.ts": [{
    make: ClaimNats.layer,
    base: { bucket: "bodies", connect: Effect.never, retention: "1 day" },
    numbers: ["replicas"],
    durations: ["timeout", "retention"],
    endless: ["retention"]
  }],
  "codecs/src/CloudEvents.ts": [
    { make: (options) => CloudEvents.event(Channel.json, options), numbers: ["maximumBytes"] }
  ],
  "codecs/src/Compression.ts": [
    { make: Compression.make, numbers: ["from", "level", "maximumBytes", "maximumRatio"] }
  ],
  "codecs/src/Csv.ts": [
    { make: (options) => Csv.codec(["a"], options), numbers: ["maximumBytes", "maximumItems"] }
  ],
  "codecs/src/Text.ts": [{ make: Text.codec, numbers: ["maximumBytes"] }],
  "codecs/src/internal/bounds.ts": [
    {
      make: (options) => Avro.codec("string", options),
      numbers: ["maximumBytes", "maximumDepth", "maximumItems"]
    },
    { make: MessagePack.codec, numbers: ["maximumBytes", "maximumDepth", "maximumItems"] }
  ],
  "codecs/src/SchemaRegistry.ts": [{
    make: SchemaRegistry.layer,
    base: { url: "http://127.0.0.1:1" },
    durations: ["timeout", "retryAfter"],
    numbers: ["cache"]
  }, { make: (options) => SchemaRegistry.jsonSchema(Schema.String, options), numbers: ["maximumBytes"] }],
  "codecs/src/Upcast.ts": [{
    make: (options) => Upcast.make([Upcast.step(Schema.String, Schema.String, (text) => text)], options),
    numbers: ["first"]
  }],
  "protobuf/src/Protobuf.ts": [{
    make: (options) => Protobuf.codec(EmptySchema, options),
    numbers: ["maximumBytes", "maximumDepth", "maximumItems"]
  }],
  "core/src/broker/KillSwitch.ts": [
    { make: KillSwitch.layer, durations: ["window", "restartAfter"], numbers: ["rate", "minimum"] }
  ],
  "core/src/broker/Subscription.ts": [{
    make: (options) => Subscription.make(bytes, options, () => Effect.void),
    base: { group: "g", name: "h" },
    durations: [
      "backoff.base",
      "backoff.cap",
      "hold.age",
      "hold.retryAfter",
      "grace.revoke",
      "grace.drain",
      "restart.base",
      "restart.cap",
      "stalled.waiting",
      "stalled.running"
    ],
    numbers: ["inFlight.messages", "inFlight.bytes", "backoff.factor", "backoff.jitter", "hold.attempts", "hold.span"],
    endless: ["hold.age", "hold.retryAfter", "grace.revoke", "grace.drain", "stalled.waiting", "stalled.running"]
  }],
  "core/src/broker/request/client.ts": [{
    make: (options) =>
      Request.client(Request.make(Channel.make("a", { payload: Schema.Int }), { reply: Schema.Int }), options),
    numbers: ["pending"]
  }],
  "core/src/broker/request/contract.ts": [{
    make: (options) => Request.make(Channel.make("a", { payload: Schema.Int }), options),
    base: { reply: Schema.Int },
    durations: ["deadline"]
  }],
  "core/src/health/Check.ts": [{
    make: Health.check,
    base: { name: "n", check: Effect.void },
    durations: ["timeLimit", "cache", "refresh"],
    numbers: ["downAfter"]
  }],
  "core/src/health/ConsumerLag.ts": [{ make: ConsumerLag.layer, durations: ["every", "timeLimit"] }],
  "core/src/health/Health.ts": [
    { make: (options) => Health.layer([], options), durations: ["cache"], numbers: ["concurrency", "maximumChecks"] },
    { make: Health.layerLifetime, durations: ["wait"] }
  ],
  "core/src/health/Pulse.ts": [{ make: (options) => Health.layer([], options), durations: ["eventLoop.delay"] }],
  "core/src/health/subscriptions.ts": [
    { make: (options) => Health.subscription({} as never, options), base: { name: "n" }, numbers: ["lag"] },
    { make: Health.subscriptions, durations: ["stuck", "stalled", "silence"] }
  ],
  "core/src/memory/MemoryBroker.ts": [{
    make: MemoryBroker.make,
    durations: ["claim"],
    numbers: ["partitions", "retention", "maximumBytes"],
    endless: ["claim"]
  }],
  "core/src/middleware/Audit.ts": [{ make: Audit.middleware, numbers: ["body.characters"] }],
  "core/src/middleware/Bulkhead.ts": [
    { make: Bulkhead.middleware, base: { name: "n" }, durations: ["retryAfter"], numbers: ["limit", "queue"] }
  ],
  "core/src/middleware/CircuitBreaker.ts": [
    {
      make: CircuitBreaker.middleware,
      base: { name: "n" },
      durations: ["openFor", "maximumOpenFor"],
      numbers: ["probes"]
    },
    { make: CircuitBreaker.rate, durations: ["window"], numbers: ["rate", "minimum"] }
  ],
  "core/src/middleware/Hedge.ts": [
    { make: Hedge.middleware, base: { idempotent: true }, durations: ["after"], numbers: ["budget", "burst"] }
  ],
  "core/src/middleware/Idempotency.ts": [
    { make: Idempotency.middleware, durations: ["maximumWait", "lease", "keep"] }
  ],
  "core/src/middleware/Log.ts": [
    { make: Log.middleware, durations: ["slow"], numbers: ["sample", "body.characters", "answer.characters"] }
  ],
  "core/src/middleware/Metrics.ts": [
    { make: Metrics.make, numbers: ["tags", "channels"] },
    { make: Metrics.middleware, numbers: ["timeOneIn"] }
  ],
  "core/src/middleware/Retry.ts": [
    { make: Retry.middleware, durations: ["maximumElapsed"], numbers: ["times"], endless: ["maximumElapsed"] }
  ],
  "core/src/middleware/Timeout.ts": [{ make: Timeout.middleware, durations: ["after"] }],
  "core/src/middleware/Trace.ts": [{ make: Trace.middleware, numbers: ["sample"] }],
  "core/src/middleware/audit/memory.ts": [{ make: Audit.layerMemory, numbers: ["capacity"] }],
  "core/src/middleware/audit/retention.ts": [
    { make: Audit.layerRetention, base: { keep: "1 day" }, durations: ["keep", "every"] }
  ],
  "core/src/middleware/circuitBreaker/circuits.ts": [{ make: CircuitBreaker.layer, numbers: ["capacity"] }],
  "core/src/middleware/idempotency/groups.ts": [
    { make: Idempotency.grouped, base: { write: () => Effect.void }, numbers: ["maximum"] }
  ],
  "core/src/middleware/idempotency/memory.ts": [{ make: Idempotency.layerMemory, numbers: ["capacity"] }],
  "core/src/middleware/rateLimit/deny.ts": [{ make: RateLimit.denying, numbers: ["capacity"] }],
  "core/src/middleware/rateLimit/memory.ts": [{ make: RateLimit.layerMemory, numbers: ["capacity"] }],
  "core/src/middleware/rateLimit/options.ts": [{ make: RateLimit.middleware, durations: ["maximumDelay"] }],
  "core/src/middleware/rateLimit/policy.ts": [
    { make: RateLimit.middleware, durations: ["window"], numbers: ["limit", "burst"] }
  ],
  "core/src/middleware/retry/schedule.ts": [
    { make: Retry.exponential, durations: ["base", "cap"], numbers: ["times", "factor", "jitter"] }
  ],
  "core/src/message/Outcome.ts": [{ make: Outcome.Retry, durations: ["after"] }],
  "core/src/pipeline/Batch.ts": [
    {
      make: (options) => Batch.handler(options, () => Effect.void),
      base: { size: 2 },
      durations: ["wait"],
      numbers: ["size"]
    }
  ],
  "core/src/pipeline/Gather.ts": [
    { make: Gather.make, base: { write: () => Effect.void }, numbers: ["maximum", "capacity"] }
  ],
  "crypto/src/internal/keyRing.ts": [
    {
      make: (options: object) => Keys.layerMemory({ ...set, ...options }),
      durations: ["dataKey.age"],
      numbers: ["dataKey.messages", "dataKey.capacity"]
    },
    {
      make: (options) => Keys.layer(Effect.succeed(set), options),
      durations: ["refresh", "cooldown", "timeout", "keep"]
    }
  ],
  "crypto/src/Kms.ts": [{
    make: (options: object) => Kms.layer({ keys: { a: "alias/a" }, writing: "a", ...options }),
    durations: ["dataKey.age", "timeout", "cooldown"],
    numbers: ["dataKey.messages", "dataKey.bytes", "dataKey.capacity", "concurrency"]
  }],
  "crypto/src/SubjectKeys.ts": [{
    make: (options: object) => SubjectKeys.layer(SubjectKeys.storeMemory(), options),
    durations: ["age", "timeout"],
    numbers: ["capacity"]
  }],
  "http/src/Body.ts": [{ make: Body.bytes, durations: ["timeout"], endless: ["timeout"] }],
  "http/src/Caller.ts": [{ make: Caller.address, numbers: ["prefix"] }],
  "http/src/Cors.ts": [{ make: Cors.middleware, base: { origins: "*" }, durations: ["maximumAge"] }],
  "http/src/IdempotencyKey.ts": [{
    make: IdempotencyKey.middleware,
    durations: ["bodyTimeout"],
    numbers: ["bodyLimit", "limit"],
    endless: ["bodyTimeout"]
  }],
  "http/src/Listener.ts": [
    {
      make: (options) => Listener.layer(createServer, [], options),
      base: { port: 0 },
      durations: ["grace", "headTimeout"]
    }
  ],

  "http/src/NodeServer.ts": [
    { make: (options) => NodeServer.make(createServer, options), durations: ["grace", "headTimeout"] }
  ],
  "http/src/Problem.ts": [{
    make: (options: { readonly retryAfter: never }) =>
      Problem.make({ tags: { Busy: { status: 503, title: "t", ...options } } }),
    durations: ["retryAfter"]
  }],
  "http/src/internal/bodyJson.ts": [{
    make: (options) => Body.json(Schema.Unknown, options),
    numbers: ["depth", "values"]
  }],
  "http/src/internal/bodyReader.ts": [
    { make: Body.bytes, durations: ["timeout"], numbers: ["limit", "ratio"], endless: ["timeout"] }
  ],
  "http/src/internal/serverProtocol.ts": [{ make: Server.protocol, numbers: ["bodyLimit"] }],
  "http/src/Sink.ts": [{ make: Sink.handler, base: { url: "http://127.0.0.1/" }, durations: ["timeout"] }],
  "http/src/Webhook.ts": [
    {
      make: (options) => Webhook.handler(bytes, options),
      base: { publisher: Publisher.make(bytes) },
      numbers: ["limit"]
    }
  ],
  "kafka/src/internal/Options.ts": [{
    make: Kafka.layer,
    base: { brokers: "127.0.0.1:1" },
    durations: [
      "connectTimeout",
      "requestTimeout",
      "consumer.sessionTimeout",
      "consumer.heartbeatInterval",
      "consumer.rebalanceTimeout",
      "consumer.maximumWait",
      "consumer.metadataMaxAge",
      "producer.retryFor"
    ],
    numbers: ["consumer.partitionBytes"]
  }],
  "mqtt/src/internal/Options.ts": [{
    make: Mqtt.layer,
    base: { url: "mqtt://127.0.0.1:1", clientId: "c" },
    durations: ["keepalive", "connectTimeout", "willDelay", "consumer.sessionExpiry"],
    numbers: ["consumer.receiveMaximum", "producer.window"]
  }],
  "nats/src/internal/jetstream/Options.ts": [{
    make: JetStream.layer,
    base: { servers: "127.0.0.1:1" },
    durations: ["consumer.claim", "consumer.takeover", "consumer.heartbeat", "consumer.discovery"],
    numbers: ["consumer.pending", "producer.window"]
  }],
  "nats/src/Nats.ts": [
    { make: Nats.layer, base: { servers: "127.0.0.1:1" }, numbers: ["waiting.messages", "waiting.bytes"] }
  ],
  "nats/src/internal/Options.ts": [
    {
      make: Nats.layer,
      base: { servers: "127.0.0.1:1" },
      durations: ["connectTimeout", "requestTimeout", "pingInterval"]
    }
  ],
  "rabbitmq/src/internal/Options.ts": [{
    make: RabbitMq.layer,
    base: { url: "amqp://127.0.0.1:1" },
    durations: ["heartbeat", "connectTimeout", "requestTimeout", "consumerTimeout"],
    numbers: ["logBytes", "prefetch", "consumerPriority"]
  }],
  "redis/src/IdempotencyRedis.ts": [
    {
      make: IdempotencyRedis.layer,
      base: { url: "redis://127.0.0.1:1" },
      durations: ["patience"],
      numbers: ["maximumGroup"]
    }
  ],
  "core/src/tasks/TaskStore.ts": [{ make: TaskStore.layerMemory, numbers: ["capacity"] }],
  "redis/src/TaskStoreRedis.ts": [
    { make: TaskStoreRedis.layer, base: { url: "redis://127.0.0.1:1" }, durations: ["patience"] }
  ],
  "sql/src/TaskStorePostgres.ts": [{
    make: TaskStorePostgres.layer,
    base: { url: local },
    durations: ["patience", "timeout", "pruneEvery"],
    numbers: ["maximumGroup"]
  }],
  "tasks/src/Task.ts": [
    { make: (options) => Task.make("t", options), base: { payload: Schema.String }, durations: ["keep"] }
  ],
  "tasks/src/Tasks.ts": [
    { make: (options) => Tasks.layer(options).pipe(Layer.provide(tasksMemory)), durations: ["poll", "handoff"] },
    { make: Tasks.find, numbers: ["limit"] },
    {
      make: (options) => Effect.provide(Tasks.enqueue(anyTask, "", options), tasksOfMemory),
      base: { unique: { by: "k" } },
      durations: ["delay", "expires", "unique.while"],
      numbers: ["priority"]
    }
  ],
  "tasks/src/Worker.ts": [
    { make: (options) => Worker.handler([], options), durations: ["lease"], numbers: ["attempts"] }
  ],
  "redis/src/RateLimitRedis.ts": [
    { make: RateLimitRedis.layer, base: { url: "redis://127.0.0.1:1" }, numbers: ["leases.tokens", "leases.capacity"] }
  ],
  "redis/src/internal/client/Options.ts": [
    {
      make: RedisLists.layer,
      base: { url: "redis://127.0.0.1:1" },
      durations: ["connectTimeout", "requestTimeout"],
      numbers: ["database"]
    },
    { make: RateLimitRedis.layer, base: { url: "redis://127.0.0.1:1" }, durations: ["requestTimeout"] }
  ],
  "redis/src/internal/client/Publisher.ts": [
    {
      make: RedisLists.layer,
      base: { url: "redis://127.0.0.1:1", wait: { replicas: 1 } },
      durations: ["wait.timeout"],
      numbers: ["wait.replicas"]
    }
  ],
  "redis/src/internal/lists/Options.ts": [
    {
      make: RedisLists.layer,
      base: { url: "redis://127.0.0.1:1" },
      durations: ["consumer.claim", "consumer.maximumWait"]
    }
  ],
  "redis/src/internal/streams/Options.ts": [{
    make: RedisStreams.layer,
    base: { url: "redis://127.0.0.1:1" },
    durations: ["consumer.claim", "consumer.lock", "consumer.maximumWait", "retention.maximumAge"],
    numbers: ["retention.maximumLength"]
  }],
  "security/src/ApiKey.ts": [{
    make: ApiKey.layer,
    base: { prefix: "acme", pepper: Redacted.make(key) },
    durations: ["timeout", "cache.fresh", "cache.stale", "cache.unknown"],
    numbers: ["cache.capacity"]
  }],
  "security/src/Hmac.ts": [
    {
      make: Hmac.verify,
      base: { keys: [{ name: "n", secret: Redacted.make(`whsec_${Buffer.alloc(32).toString("base64")}`) }] },
      durations: ["tolerance"]
    }
  ],
  "program/src/Program.ts": [
    { make: Program.make, base: { name: "n", parts: { a: Effect.void } }, durations: ["ready", "wait", "budget"] }
  ],
  "program/src/internal/options.ts": [{
    make: (options) => Program.worker(Effect.void, options),
    durations: ["ready", "stop", "restart.base", "restart.cap", "restart.within"],
    numbers: ["restart.jitter", "restart.times"]
  }],
  "security/src/Jwt.ts": [{
    make: Jwt.layer,
    base: { ...jwt, algorithms: ["HS256"], keys: { secret: Redacted.make(key) } },
    durations: ["clockTolerance", "maximumTokenAge"],
    numbers: ["maximumLength", "cache.capacity"]
  }],
  "security/src/internal/keys.ts": [{
    make: Jwt.layer,
    base: { ...jwt, keys: { url: "https://127.0.0.1/keys" } },
    durations: ["keys.refresh", "keys.cooldown", "keys.timeout", "keys.keep"]
  }],
  "sql/src/AuditPostgres.ts": [{
    make: AuditPostgres.layer,
    base: { url: local },
    durations: ["patience", "timeout"],
    numbers: ["maximumGroup"]
  }],
  "sql/src/AuditSqlite.ts": [
    { make: AuditSqlite.layer, base: { filename: ":memory:" }, durations: ["busyTimeout"], numbers: ["maximumGroup"] }
  ],
  "sql/src/IdempotencyPostgres.ts": [{
    make: IdempotencyPostgres.layer,
    base: { url: local },
    durations: ["patience", "timeout", "pruneEvery"],
    numbers: ["maximumGroup"]
  }],
  "sql/src/IdempotencySqlite.ts": [{
    make: IdempotencySqlite.layer,
    base: { filename: ":memory:" },
    durations: ["busyTimeout", "pruneEvery"],
    numbers: ["maximumGroup"]
  }],
  "sql/src/Outbox.ts": [{ make: Outbox.layer, durations: ["timeout"] }],
  "sql/src/Inbox.ts": [{ make: Inbox.layer, durations: ["keep", "pruneEvery", "timeout"] }],
  "sql/src/OutboxRelay.ts": [{
    make: OutboxRelay.layer,
    durations: ["lease", "poll", "retryBase", "retryCap", "keep", "pruneEvery", "grace", "timeout"],
    numbers: ["batch", "maximumBytes", "perKey", "attempts"]
  }],
  "sql/src/RateLimitPostgres.ts": [{
    make: RateLimitPostgres.layer,
    base: { url: local },
    durations: ["pruneEvery", "timeout"]
  }],
  "sql/src/RateLimitSqlite.ts": [
    { make: RateLimitSqlite.layer, base: { filename: ":memory:" }, durations: ["busyTimeout", "pruneEvery"] }
  ],
  "sql/src/internal/postgres/connection.ts": [AuditPostgres.layer, IdempotencyPostgres.layer, RateLimitPostgres.layer]
    .map(
      (make) => ({
        make,
        base: { url: local },
        durations: ["connectTimeout", "maximumLifetime"],
        numbers: ["maximumConnections"]
      })
    ),
  "sql/src/SqlHealth.ts": [{ make: SqlHealth.relay, durations: ["age"], numbers: ["pending"] }],
  "sql/src/SqliteClient.ts": [{ make: SqliteClient.layer, base: { filename: ":memory:" }, durations: ["busyTimeout"] }],
  "temporal/src/Temporal.ts": [{ make: Temporal.layer, base: { taskQueue: "q" }, durations: ["timeout"] }],
  "temporal/src/TemporalWorker.ts": [{
    make: TemporalWorker.layer,
    base: { taskQueue: "q" },
    durations: ["drain"],
    numbers: ["maximumActivities", "cachedWorkflows"]
  }],
  "testing/src/BrokerContract.ts": [{
    make: (options) => BrokerContract.run(BrokerContract.scenarios[0]!, subject as never, options),
    base: { missing: "created" },
    durations: ["patience", "quiet"]
  }],
  "dashboard/src/Dashboard.ts": [{
    make: Dashboard.make,
    base: { through: Dashboard.anonymous },
    durations: ["every"],
    numbers: ["streams", "letters", "body.characters"]
  }],
  "dashboard/src/MonitorRoutes.ts": [{
    make: MonitorRoutes.make,
    base: { through: Dashboard.anonymous },
    durations: ["cache"]
  }],
  "monitor/src/AlertEmail.ts": [{
    make: AlertEmail.make,
    base: { url: Redacted.make("smtps://mail.example.com"), from: "a@b.example", to: ["a@b.example"] },
    durations: ["timeout"]
  }],
  "monitor/src/AlertRule.ts": [{
    make: (options) => AlertRule.make(options),
    base: {
      name: "r",
      level: "info",
      when: { kind: "ratio", of: "errors", to: "messages", window: "1 minute", atLeast: 0.5 }
    },
    durations: ["for", "keepFiring", "cooldown", "when.window"],
    numbers: ["when.under", "when.minimum"]
  }],
  "monitor/src/Fold.ts": [
    {
      make: Fold.make,
      durations: ["retention", "groupWait", "groupInterval", "repeat"],
      numbers: ["channels", "tags", "handlers", "groups"]
    },
    { make: (options) => Fold.dryRun([], options), durations: ["grace"] }
  ],
  "monitor/src/Monitor.ts": [{
    make: (options) => Monitor.layer(Preset.production, options),
    durations: ["slow", "every", "timeout", "backoff", "groupWait", "groupInterval", "repeat"],
    numbers: ["queue", "attempts"],
    endless: ["slow"]
  }],
  "monitor/src/MonitorSql.ts": [{ make: MonitorSql.layer, durations: ["timeout"] }],
  "testing/src/internal/simulation/Check.ts": [
    { make: (options) => Simulation.check(() => Effect.void, options), numbers: ["from", "seeds"] }
  ],
  "workflow/src/Activity.ts": [{
    make: (options) => Activity.make("a", options, () => Effect.void),
    base: { payload: Schema.String },
    numbers: ["attempts"]
  }],
  "workflow/src/StartWorkflow.ts": [{
    make: StartWorkflow.handler,
    base: { workflow: WorkflowType.make("W", { payload: Schema.String }), payload: () => "" },
    durations: ["keep", "lease"],
    numbers: ["maximumPayload"]
  }]
}
