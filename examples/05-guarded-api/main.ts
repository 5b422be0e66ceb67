/**
 * An API that is guarded on every side: who calls, how often, whether twice, what is sent, and how long others may take.
 *
 *     node examples/05-guarded-api/main.ts                    # http://127.0.0.1:3000
 *     TOKEN=$(node examples/05-guarded-api/main.ts token ada)
 *
 *     curl -i localhost:3000/transfers -H "authorization: Bearer $TOKEN" -H 'content-type: application/json' \
 *       -H 'idempotency-key: "8e03978e"' -d '{"to":"bob","amount":10}'
 *
 * The same line again is answered with the same transfer, and nobody pays twice. "slow-bob" waits for a service that does not
 * answer, and after three of them nobody waits any more; "blocked-bob" is refused; `-d '{"to":7}'` is told what is wrong.
 *
 * SIGTERM and Ctrl-C end it in order: it is not ready any more, what was accepted is answered. `--help` prints the variables.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { CircuitBreaker, Description, Health, Idempotency, Log, RateLimit } from "@millrace/core"
import * as Listener from "@millrace/http/Listener"
import { IdempotencySqlite, RateLimitSqlite } from "@millrace/sql"
import { Cause, Config, Console, Context, Effect, Exit, Layer, Redacted, Schema } from "effect"
import { FetchHttpClient } from "effect/http"
import { createServer } from "node:http"
import * as Api from "./api.ts"
import * as Ledger from "./ledger.ts"
import * as Screening from "./screening.ts"
import * as Tokens from "./tokens.ts"

const help = `An API of transfers, guarded on every side. It takes these variables of the environment:

  PORT             Where it listens; 0 takes any port that is free (default: 3000)
  STORE            Where keys and counts are: memory, or a path that SQLite's files begin with, which
                   several processes may share (default: memory)
  TOKEN_SECRET     What tokens are signed with, at least 32 characters (default: one that everybody knows)
  ADDRESS_LIMIT    Requests of an address in a minute (default: 1200)
  USER_LIMIT       Requests of a user in a minute (default: 600)
  TRUSTED_PROXIES  Addresses and blocks of proxies, with commas between (default: none)
  SCREENING_URL    The service that is asked about accounts (default: one that stands in for it)
  LOG_FORMAT       json, logfmt or pretty (default: json)

  node main.ts token NAME   prints a token of an hour for that name
  node main.ts --order      prints what stands around a transfer, from the outside in`

const integer = (name: string, otherwise: number, least = 1) =>
  Config.withDefault(
    Config.schema(
      Schema.FiniteFromString.check(Schema.isInt(), Schema.isBetween({ minimum: least, maximum: 1_000_000 })),
      name
    ),
    otherwise
  )

const Secret = Schema.Redacted(Schema.String.check(Schema.isMinLength(32)))

const settings = Config.all({
  port: integer("PORT", 3000, 0),
  store: Config.withDefault(Config.NonEmptyString("STORE"), "memory"),
  secret: Config.withDefault(
    Config.schema(Secret, "TOKEN_SECRET"),
    Redacted.make("everybody knows this one, so nobody uses it")
  ),
  address: integer("ADDRESS_LIMIT", 1200),
  user: integer("USER_LIMIT", 600),
  trusted: Config.map(
    Config.withDefault(Config.String("TRUSTED_PROXIES"), ""),
    (text) => text.split(",").map((each) => each.trim()).filter((each) => each !== "")
  ),
  screening: Config.withDefault(Config.String("SCREENING_URL"), undefined)
})

type Settings = Config.Success<typeof settings>

const stores = ({ store }: Settings) =>
  store === "memory"
    ? Layer.merge(Idempotency.layerMemory({ capacity: 10_000 }), RateLimit.layerMemory())
    : Layer.merge(
      IdempotencySqlite.layer({ filename: `${store}.keys.db` }),
      RateLimitSqlite.layer({ filename: `${store}.limits.db` })
    )

/** Ready once it listens, and not any more when it is told to end. */
const service = (settings: Settings) =>
  Health.layerLifetime().pipe(
    Layer.provideMerge(Listener.layer(createServer, Api.routes(settings), { port: settings.port, host: "127.0.0.1" })),
    Layer.provide(Health.layer([Health.idempotency(), Health.rateLimit(), Health.circuits()])),
    Layer.provide([Ledger.layer, Screening.layer({ url: settings.screening, openFor: "10 seconds" })]),
    Layer.provide([stores(settings), CircuitBreaker.layer(), Tokens.layer(settings.secret), FetchHttpClient.layer]),
    Layer.provide(Log.layerConfig({ redact: { fields: ["iban"] } }))
  )

const serve = Effect.gen(function*() {
  const context = yield* Layer.build(service(yield* settings))
  const { address, port } = Context.get(context, Listener.Address)
  yield* Console.log(`Listening at http://${address}:${port}`)
  return yield* Effect.never
}).pipe(Effect.scoped, Effect.onInterrupt(() => Console.log("Stopped")))

const [command, name, ...rest] = process.argv.slice(2)

const program = command === undefined
  ? serve
  : command === "--help"
  ? Console.log(help)
  : command === "--order"
  ? Effect.flatMap(settings, (limits) => Console.log(Description.toText(Api.transfers(limits))))
  : command === "token" && name !== undefined && rest.length === 0
  ? Effect.flatMap(Effect.flatMap(settings, ({ secret }) => Tokens.issue(secret, name)), Console.log)
  : Effect.fail({ message: "That is no command: --help says what there is." })

NodeRuntime.runMain(Effect.tapError(program, (error) => Console.error(error.message)), {
  disableErrorReporting: true,
  teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause) ? 0 : 1)
})
