/**
 * The configuration: variables of the environment, as data, which `--help` prints and a start checks all at once.
 */
import { Program } from "@millrace/program"
import { Config, Data, Duration, Effect, LogLevel, Option, Redacted, Runtime, Schema } from "effect"
import { tmpdir } from "node:os"
import { join } from "node:path"

/** One variable: what it is for, what it must be, what it is without, and how it is read. */
interface Variable<A> {
  readonly name: string
  readonly means: string
  readonly must: string
  readonly otherwise: string
  /** What came is not repeated. */
  readonly secret: boolean
  readonly config: Config.Config<A>
}

const variable = <A>(
  name: string,
  read: (name: string) => Config.Config<A>,
  rest: Omit<Variable<A>, "name" | "config" | "secret"> & { readonly value: A; readonly secret?: boolean }
): Variable<A> => ({ secret: false, ...rest, name, config: Config.withDefault(read(name), rest.value) })

const integer = (least: number, most: number) => (name: string) =>
  Config.schema(
    Schema.FiniteFromString.check(Schema.isInt(), Schema.isBetween({ minimum: least, maximum: most })),
    name
  )

const optional = <A>(read: (name: string) => Config.Config<A>) => (name: string) => Config.option(read(name))

const Place = Schema.NonEmptyString.check(Schema.isPattern(/^(?:postgres(?:ql)?:\/\/.|(?!.*:\/\/))/))

const Brokers = Schema.String.check(Schema.isPattern(/^(?:kafkas?:\/\/\S+|[^\s,]+:\d+(?:,[^\s,]+:\d+)*)$/))

const file = join(tmpdir(), "millrace-web-service.db")

export const variables = {
  port: variable("PORT", integer(0, 65_535), {
    means: "Where the service listens; 0 takes any port that is free",
    must: "an integer from 0 to 65535",
    otherwise: "3000",
    value: 3000
  }),
  host: variable("HOST", Config.NonEmptyString, {
    means: "The address that it listens at",
    must: "an address of this machine",
    otherwise: "127.0.0.1",
    value: "127.0.0.1"
  }),
  database: variable("DATABASE", (name) => Config.schema(Schema.Redacted(Place), name), {
    means: "A SQLite file, or postgres://user:password@host:port/database",
    must: "a file or postgres://…",
    otherwise: file,
    value: Redacted.make(file),
    secret: true
  }),
  broker: variable<"memory" | "kafka">("BROKER", (name) => Config.Literals(["memory", "kafka"], name), {
    means: "Where the messages travel; in memory they are those of this process",
    must: "memory or kafka",
    otherwise: "memory",
    value: "memory"
  }),
  worker: variable("WORKER", Config.Boolean, {
    means: "Whether this process works on orders, too; needed where the broker is in memory",
    must: "true or false",
    otherwise: "true",
    value: true
  }),
  workTime: variable("WORK_TIME", Config.Duration, {
    means: "How long an attempt at an order takes",
    must: "a duration, as in 200 millis",
    otherwise: "200 millis",
    value: Duration.millis(200)
  }),
  limit: variable("RATE_LIMIT", integer(1, 1_000_000), {
    means: "How many requests are taken in a second",
    must: "an integer from 1 to 1000000",
    otherwise: "1000",
    value: 1000
  }),
  logLevel: variable<LogLevel.LogLevel>("LOG_LEVEL", Config.LogLevel, {
    means: "What is logged at least",
    must: "one of " + LogLevel.values.join(", "),
    otherwise: "Info",
    value: "Info"
  }),
  kafkaBrokers: variable("KAFKA_BROKERS", optional((name) => Config.schema(Schema.Redacted(Brokers), name)), {
    means: "Where Kafka is: host:port,… or kafka://user:password@host:port",
    must: "host:port,… where BROKER is kafka",
    otherwise: "none",
    value: Option.none(),
    secret: true
  }),
  kafkaTls: variable("KAFKA_TLS", optional((name: string) => Config.Literals(["on", "off"], name)), {
    means: "Whether Kafka is spoken to by TLS",
    must: "on or off",
    otherwise: "off",
    value: Option.none()
  }),
  kafkaSasl: variable(
    "KAFKA_SASL_MECHANISM",
    optional((name: string) => Config.Literals(["plain", "scram-sha-256", "scram-sha-512"], name)),
    {
      means: "How Kafka is told who this is",
      must: "plain, scram-sha-256 or scram-sha-512",
      otherwise: "plain, where there is a username",
      value: Option.none()
    }
  ),
  kafkaUsername: variable("KAFKA_USERNAME", optional(Config.NonEmptyString), {
    means: "Who this is to Kafka",
    must: "a name",
    otherwise: "none",
    value: Option.none()
  }),
  kafkaPassword: variable("KAFKA_PASSWORD", optional(Config.Redacted), {
    means: "Its password",
    must: "a password, beside KAFKA_USERNAME",
    otherwise: "none",
    value: Option.none(),
    secret: true
  })
} as const

/** What the service is started with. */
const { broker, database, host, kafkaBrokers, limit, logLevel, port, worker, workTime } = variables
const settings = Config.all({
  port: port.config,
  host: host.config,
  database: database.config,
  broker: broker.config,
  worker: worker.config,
  workTime: workTime.config,
  limit: limit.config,
  logLevel: logLevel.config
})

export type Settings = Config.Success<typeof settings>

/** The environment is wrong: a line for each variable, with what it must be and what came. */
export class WrongSettings extends Data.TaggedError("WrongSettings")<{ readonly message: string }> {
  override readonly [Runtime.errorExitCode] = Program.exitCodes.configuration
}

const came = <A>({ name, secret }: Variable<A>) =>
  Effect.map(Config.option(Config.String(name)), (text) =>
    Option.match(text, {
      onNone: () => "nothing came",
      onSome: (text) => secret ? "got a value that is not shown here" : `got ${JSON.stringify(text.slice(0, 100))}`
    }))

const wrong = <A>(one: Variable<A>) => Effect.map(came(one), (came) => [`${one.name} must be ${one.must}, ${came}`])

const check = <A>(one: Variable<A>) =>
  Effect.matchEffect(one.config, { onSuccess: () => Effect.succeed([]), onFailure: () => wrong(one) })

/** What is wrong of several together. */
const together = Effect.gen(function*() {
  const kind = yield* Effect.option(broker.config)
  const brokers = yield* Effect.option(kafkaBrokers.config)
  const works = yield* Effect.option(worker.config)
  const isKafka = Option.contains(kind, "kafka" as const)
  return [
    ...(isKafka && Option.isSome(brokers) && Option.isNone(brokers.value) ? yield* wrong(kafkaBrokers) : []),
    ...(!isKafka && Option.isSome(kind) && Option.contains(works, false)
      ? ["WORKER must be true where BROKER is memory: nobody else could read it"]
      : [])
  ]
})

/** Reads and checks all of it; fails with every wrong variable in one message. */
export const load: Effect.Effect<Settings, WrongSettings | Config.ConfigError> = Effect.gen(function*() {
  const each = yield* Effect.forEach(Object.values<Variable<unknown>>(variables), check)
  const lines = [...each.flat(), ...(yield* together)]
  if (lines.length === 0) return yield* settings
  return yield* new WrongSettings({
    message: `The environment is wrong:\n${lines.map((line) => `  ${line}\n`).join("")}--help says what each is for.`
  })
})

/** What `--help` prints. */
export const help: string = [
  "A web service whose orders travel through a broker. It takes these variables of the environment:",
  "",
  ...Object.values<Variable<unknown>>(variables).map(({ means, must, name, otherwise }) =>
    `  ${name.padEnd(20)} ${means}\n${" ".repeat(23)}${must}; default: ${otherwise}`
  ),
  "",
  "Kafka's other variables are those of Kafka.layerConfig (docs/kafka.md). A wrong value ends the start with exit code 78."
].join("\n")
