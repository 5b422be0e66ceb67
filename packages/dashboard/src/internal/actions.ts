/**
 * Replays and discards of dead letters by a person, each with an audit row that names the person.
 */
import { Audit, Auth, DeadLetters } from "@millrace/core"
import type { Request } from "@millrace/http"
import { Clock, Effect, Exit, Schema, Stream } from "effect"
import type { HttpServerResponse } from "effect/http"
import { BadRequest, json, NotFound } from "./answer.ts"

const Ids = Schema.Array(Schema.String.check(Schema.isPattern(/^[\w-]{32}$/))).check(
  Schema.isMinLength(1),
  Schema.isMaxLength(500)
)

const Name = Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(249))

/** The request of a replay. */
export const Replay = Schema.Struct({
  /** The dead letter channel. */
  channel: Name,
  ids: Ids,
  /** Another channel to publish to. */
  to: Schema.optionalKey(Name)
})

/** The request of a discard. */
export const Discard = Schema.Struct({
  channel: Name,
  ids: Ids,
  reason: Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(1000))
})

type Asked = typeof Replay.Type | typeof Discard.Type

/** Refuses a request that a page of another site has sent; programs send no such header. Source: Fetch Metadata (W3C). */
const sameSite = ({ headers }: Request<unknown>): Effect.Effect<void, BadRequest> => {
  const site = headers["sec-fetch-site"]
  return site === undefined || site === "same-origin" || site === "none"
    ? Effect.void
    : Effect.fail(new BadRequest({ message: "The request was sent by a page of another site" }))
}

/**
 * Runs an action on a channel of the page for the principal. The row is stored before the answer, whether the action succeeds or
 * not; without a row the answer is an error, and the record beside the dead letters still names what was done.
 */
const audited = <P extends Asked, E, R, RK>(
  name: string,
  isKnown: (channel: string) => Effect.Effect<boolean, never, RK>,
  run: (asked: P, by: string) => Effect.Effect<object, E, R>
) =>
(
  request: Request<P>
): Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  Audit.AuditError | BadRequest | E | NotFound,
  Audit.Store | Auth.Principal | R | RK
> =>
  Effect.gen(function*() {
    yield* sameSite(request)
    const { payload } = request
    const { subject } = yield* Auth.Principal
    if (!(yield* isKnown(payload.channel))) {
      return yield* Effect.fail(new NotFound({ message: "The page has no dead letter channel of this name" }))
    }
    const store = yield* Audit.Store
    const startedAt = yield* Clock.currentTimeMillis
    const exit = yield* Effect.exit(run(payload, subject))
    const completedAt = yield* Clock.currentTimeMillis
    const result = Exit.isSuccess(exit) ? exit.value : undefined
    yield* Effect.logInfo(
      `Dashboard: ${name} of ${payload.ids.length} dead letters of ${payload.channel} by ${subject}`,
      result
    )
    yield* store.append({
      kind: "server",
      channel: payload.channel,
      partition: undefined,
      position: undefined,
      key: subject,
      body: JSON.stringify({ action: name, by: subject, ...payload, result }),
      handler: `dashboard.${name}`,
      attempt: undefined,
      startedAt,
      completedAt,
      duration: completedAt - startedAt,
      status: Exit.isSuccess(exit) ? "done" : "failed",
      errorTag: undefined,
      errorMessage: undefined
    })
    return json(JSON.stringify(yield* exit))
  })

type Letter = DeadLetters.DeadLetter

const chosen = (ids: ReadonlyArray<string>) => ({ filter: { ids: new Set(ids) } })

/** Replays letters for the group that failed, or to another channel; answers how many had which result. */
export const replay = <R>(isKnown: (channel: string) => Effect.Effect<boolean, never, R>) =>
  audited(
    "replay",
    isKnown,
    ({ channel, ids, to }: typeof Replay.Type) =>
      DeadLetters.replayAll(channel, { ...chosen(ids), to }).pipe(
        Stream.runFold(
          (): Record<DeadLetters.Replayed["how"], number> => ({
            published: 0,
            already: 0,
            incomplete: 0,
            discarded: 0,
            refused: 0
          }),
          (counts, { how }) => ({ ...counts, [how]: counts[how] + 1 })
        )
      )
  )

/** Discards letters with a reason; answers how many. */
export const discard = <R>(isKnown: (channel: string) => Effect.Effect<boolean, never, R>) =>
  audited(
    "discard",
    isKnown,
    ({ channel, ids, reason }: typeof Discard.Type, by) =>
      Stream.runCollect(DeadLetters.list(channel, chosen(ids))).pipe(
        Effect.flatMap((letters: ReadonlyArray<Letter>) =>
          Effect.as(DeadLetters.discard(letters, { by: by.slice(0, 200) || "?", reason }), {
            discarded: letters.length
          })
        )
      )
  )
