/**
 * A page for the people who run a program: dead letters and subscriptions first, then errors, alerts, channels and health, live.
 */
import {
  type Audit,
  Auth,
  type Broker,
  DeadLetters,
  Eager,
  type Envelope,
  Middleware,
  OptionCheck,
  Redaction,
  Subscriptions
} from "@millrace/core"
import { Body, Server } from "@millrace/http"
import { type Duration, Effect, pipe } from "effect"
import { errors, json } from "./internal/answer.ts"
import * as Actions from "./internal/actions.ts"
import * as Assets from "./internal/assets.ts"
import { streams } from "./internal/events.ts"
import * as Letters from "./internal/letters.ts"
import { shared } from "./internal/shared.ts"
import * as Snapshot from "./internal/snapshot.ts"
import type { Answer, Guard } from "./MonitorRoutes.ts"

/** The services that the page reads. */
export type Needs = Snapshot.Needs | Broker.Broker

/** The services that replays and discards need. */
export type ActionNeeds = Needs | Audit.Store

/** Options of `make`. */
export interface Options<R, RA = never> {
  /**
   * The middlewares around each endpoint with data, which give the `Principal`; e.g.
   * `Auth.middleware({ scopes: ["monitor:read"] })`. For a page without a login: `anonymous`.
   */
  readonly through: Guard<R, Needs>
  /** The middlewares around replays and discards, which give the `Principal`. Default: there are none of these actions. */
  readonly actions?: Guard<RA, ActionNeeds> | undefined
  /** The dead letter channels. Default: those of the running subscriptions, named as `DeadLetters.channelOf` does. */
  readonly deadLetters?: ReadonlyArray<string> | undefined
  /** The heading. Default: `Millrace`. */
  readonly title?: string | undefined
  /** The path of the page; the endpoints are below it. Default: `/monitor`. */
  readonly path?: `/${string}` | undefined
  /** How often the page is told of changes; from 100 ms. Default: 2 seconds. */
  readonly every?: Duration.Input | undefined
  /** The most pages that are open at once, from 1. Default: 50. */
  readonly streams?: number | undefined
  /** How much of the body of a dead letter is shown, with secrets replaced. Default: 500 characters. */
  readonly body?: "none" | { readonly characters: number } | undefined
  /** Secrets beside the usual ones, which are replaced in bodies, keys and errors. */
  readonly redact?: Redaction.Options | undefined
  /** The most letters of one channel that are read, the oldest first; from 1. Default: 10,000. */
  readonly letters?: number | undefined
}

/** The defaults of the options of `make`. */
export const defaults = {
  title: "Millrace",
  path: "/monitor",
  every: "2 seconds",
  streams: 50,
  body: { characters: 500 },
  letters: 10_000
} as const

const check = OptionCheck.make("Dashboard")

// dead letters are read from a broker: not more often than this, in milliseconds
const lettersFresh = 2_000

/**
 * Gives the principal `anonymous`, without scopes, to every request: for a page that only the people behind a proxy or a private
 * network reach. `Auth.Principal` leaves R.
 */
export const anonymous = Middleware.make<{ provides: Auth.Principal }>()(
  { name: "Anonymous", stage: "consume" },
  (next) => {
    const principal = { subject: "anonymous", issuer: undefined, scopes: [], claims: {} }
    return (message: Envelope) => Eager.provide(Auth.Principal, principal, next, message)
  }
)

const channels = (
  own: ReadonlyArray<string> | undefined
): Effect.Effect<ReadonlyArray<string>, never, Subscriptions.Registry> =>
  own !== undefined
    ? Effect.succeed(own)
    : Effect.map(
      Effect.flatMap(Subscriptions.Registry, (registry) => registry.list),
      (all) => [...new Set(all.map(({ channel }) => DeadLetters.channelOf(channel)))]
    )

/**
 * Makes the routes of the page, for `Server.layer` and `Listener`: the page at `/monitor`, and below it `events` (server-sent events
 * with all that the page shows), `dead-letters` (open letters in groups) and, with `actions`, `dead-letters/replay` and
 * `dead-letters/discard`.
 *
 * The page and its files hold no data and need no login; it works without any other host. It asks for a token when an endpoint
 * answers 401, keeps it until the tab closes, and sends it as `Authorization: Bearer`; with other schemes the browser asks.
 *
 * A replay publishes letters for the group that failed (`Replays.layer` runs there), or to another channel. Each action leaves an
 * audit row with the principal, before it is answered.
 *
 * Errors: 400, 404, 503 for more than `streams` pages, the broker's, and those of the middlewares; all are problem details.
 *
 * **Example** (readers by one scope, replays by another)
 *
 * ```ts
 * import { Auth } from "@millrace/core"
 * import { Dashboard } from "@millrace/dashboard"
 *
 * const routes = Dashboard.make({
 *   title: "Orders",
 *   through: Auth.middleware({ scopes: ["monitor:read"] }),
 *   actions: Auth.middleware({ scopes: ["monitor:write"] })
 * })
 * console.log(routes.length) // => 8
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const make = <R, RA = never>(options: Options<R, RA>): ReadonlyArray<Server.Route<R | RA>> => {
  const every = check.millis("every", options.every ?? defaults.every, { least: 100, most: OptionCheck.longestTimer })
  const mostStreams = check.count("streams", options.streams ?? defaults.streams)
  const most = check.count("letters", options.letters ?? defaults.letters)
  const { body = defaults.body } = options
  const characters = body === "none" ? 0 : check.count("body.characters", body.characters, { most: 100_000 })
  const redaction = Redaction.make(options.redact)
  const path = options.path ?? defaults.path

  const document = shared(
    Effect.map(Snapshot.read(redaction), (snapshot) => ({
      text: JSON.stringify(snapshot),
      // a program that ends waits for its requests
      isLast: snapshot.health.phase === "draining"
    })),
    every / 2
  )
  const events = streams(document, every, mostStreams)
  const listed = channels(options.deadLetters)
  const letters = shared(
    Effect.flatMap(listed, (names) =>
      Effect.map(
        Effect.forEach(names, (name) => Letters.read(name, { characters, most, redaction }), { concurrency: 4 }),
        (all) => JSON.stringify({ channels: all })
      )),
    lettersFresh
  )
  const isKnown = (channel: string) => Effect.map(listed, (names) => names.includes(channel))

  const get = (rest: `/${string}`, answer: Answer<Needs>): Server.Route<R | RA> =>
    Server.route("GET", `${path}${rest}`, options.through(answer), { errors })
  const post = (rest: `/${string}`, guard: Guard<RA, ActionNeeds>, answer: Answer<ActionNeeds>): Server.Route<R | RA> =>
    Server.route("POST", `${path}/dead-letters${rest}`, guard(answer), { errors })

  return [
    ...Assets.routes(path, { title: options.title ?? defaults.title, path, canAct: options.actions !== undefined }),
    get("/events", () => events),
    get("/dead-letters", () => Effect.map(letters, json)),
    ...(options.actions === undefined ? [] : [
      post("/replay", options.actions, pipe(Actions.replay(isKnown), Body.json(Actions.Replay))),
      post("/discard", options.actions, pipe(Actions.discard(isKnown), Body.json(Actions.Discard)))
    ])
  ]
}
