/**
 * Replays dead letters: publishes them again as they were, for the failed group or for all, each once.
 */
import { Data, Effect, Stream } from "effect"
import { Outgoing } from "../../message/Message.ts"
import * as After from "../../pipeline/After.ts"
import * as Description from "../../pipeline/Description.ts"
import type { Handler } from "../../pipeline/Handler.ts"
import * as Order from "../../pipeline/Order.ts"
import type { Broker } from "../Broker.ts"
import type { BrokerError } from "../../driver/BrokerError.ts"
import * as BrokerErrors from "../../driver/BrokerError.ts"
import { names, originalFields, replayed as replayedName, replayId } from "./letter.ts"
import { type DeadLetter, type Filter, keyIn, list, type Options } from "./list.ts"
import { hookFailed, type Through } from "../Publisher.ts"
import * as Instructions from "../instructions.ts"
import { isAboutMessage } from "../refused.ts"
import * as Record from "./replayRecord.ts"

/**
 * The result of a replay of one dead letter.
 *
 * - `published`: the replay published it, and the broker has confirmed it
 * - `already`: an earlier run with the same target and `run`, or this run for an equal letter, has published it
 * - `incomplete`: the letter lacks the parts in `omitted`, or its group, so it cannot be published as it was
 * - `discarded`: a person has discarded the letter (`discard`)
 * - `refused`: the broker can never accept the message in this channel (`TooLarge`, `Invalid` or `Unsupported`); see `error`
 */
export class Replayed extends Data.Class<{
  readonly letter: DeadLetter
  /** The channel that the letter was, or would be, published to. */
  readonly channel: string
  readonly how: "published" | "already" | "incomplete" | "discarded" | "refused"
  /** The broker's error; undefined unless `refused`. */
  readonly error: BrokerError | undefined
}> {}

/** Options of a replay. */
export interface ReplayOptions<On, E, R> extends Options<On> {
  /**
   * The groups that get it: `group`, the failed group, by its channel `CHANNEL.GROUP.replay`, which `Replays.layer` reads in
   * the program of that group; `all`, every group that reads the channel that the message came from. Default: `group`.
   */
  readonly reach?: "group" | "all" | undefined
  /** Another channel to publish to, for all of its groups; `reach` does not apply then. */
  readonly to?: string | undefined
  /**
   * The name of the replay. A run publishes no letter to a channel to which a run of the same name has published it; to
   * replay the same letters once more, give another name. Default: the empty name.
   */
  readonly run?: string | undefined
  /**
   * The treatment of the message's own instructions to the broker (expiry, retain, priority, a deduplication id): `keep`
   * publishes them as information, `obey` gives them to the broker again. Default: `keep`.
   */
  readonly instructions?: "keep" | "obey" | undefined
  /** Publish middlewares, e.g. `Audit.middleware()`: a replay is a publish like any other. Default: none. */
  readonly through?: Through<Uint8Array, E, R, On> | undefined
}

// letters named by one message of the record
const together = 100

/** A letter, and the message that a replay publishes for it. */
interface Plan {
  readonly letter: DeadLetter
  readonly id: string
  readonly channel: string
  readonly isIncomplete: boolean
  /** Makes the message; `obeyed` are the headers that the broker obeys. */
  readonly outgoing: (obeyed: ReadonlyArray<string> | undefined) => Outgoing<Uint8Array>
}

const planning =
  <On, E, R>({ instructions = "keep", reach = "group", run = "", to }: ReplayOptions<On, E, R>) =>
  (letter: DeadLetter): Plan => {
    const { delivery, group } = letter
    const isForGroup = to === undefined && reach === "group"
    const channel = to ?? (isForGroup ? Record.groupChannel(letter.channel, group) : letter.channel)
    const id = Record.idOf(delivery, channel, run)
    return {
      letter,
      id,
      channel,
      isIncomplete: letter.omitted.length > 0 || (isForGroup && group === ""),
      outgoing: (obeyed) => {
        const headers: Record<string, string> = Object.create(null)
        headers[names.passes] = String(letter.passes)
        headers[replayedName] = "true"
        headers[replayId] = id
        if (isForGroup) {
          headers[names.group] = group
          headers[names.partition] = String(letter.partition)
          headers[names.position] = String(letter.position)
          if (letter.timestamp !== undefined) headers[names.timestamp] = String(letter.timestamp)
        }
        // the broker has refused these headers as they were; `Replays` restores them
        const isEncoded = isForGroup && instructions === "keep"
        const encoded = isEncoded ? delivery.headers[names.headers] : undefined
        if (encoded !== undefined) headers[names.headers] = encoded
        const outgoing = new Outgoing(channel, delivery.raw, delivery.key, headers, {
          keyBytes: delivery.keyBytes,
          fields: encoded === undefined ? originalFields(delivery) : [],
          tombstone: delivery.tombstone
        })
        return instructions === "obey" ? Instructions.obey(outgoing) : Instructions.keep(obeyed, outgoing)
      }
    }
  }

const replaying = <On, E, R>(options: ReplayOptions<On, E, R> = {}) => {
  const { instructions = "keep", reach = "group", through } = options
  if (reach !== "group" && reach !== "all") {
    throw new RangeError(`DeadLetters: reach must be "group" or "all", got ${String(reach)}`)
  }
  if (instructions !== "keep" && instructions !== "obey") {
    throw new RangeError(`DeadLetters: instructions must be "keep" or "obey", got ${String(instructions)}`)
  }
  const key = keyIn(options)
  const innermost = Description.describe(
    (outgoing: Outgoing<Uint8Array>) => Effect.flatMap(key, (broker) => broker.publish(outgoing)),
    [{ name: "Broker", stage: "publish" }]
  )
  // without middlewares E and R are those of the innermost handler
  const chain = (through?.(innermost) ?? innermost) as Handler<Outgoing<Uint8Array>, unknown, E, R>
  Order.check(chain)
  const plan = planning(options)

  const send = (
    { channel, letter, outgoing }: Plan,
    obeyed: ReadonlyArray<string> | undefined
  ): Effect.Effect<void, E | BrokerError, R> =>
    Effect.mapError(
      Effect.asVoid(After.around(outgoing(obeyed).fresh(), chain, hookFailed)),
      (error) =>
        isMissing(error) && reach === "group" && options.to === undefined ? unread(error, channel, letter) : error
    )

  /** Publishes a batch between its two entries of the record; if a publish fails, the letters before it are recorded. */
  const batch = (
    record: Record.ReplayRecord,
    letters: ReadonlyArray<DeadLetter>,
    obeyed: ReadonlyArray<string> | undefined
  ) =>
    Effect.gen(function*() {
      const steps: Array<{ readonly plan: Plan; how: Replayed["how"]; error?: BrokerError }> = []
      // letters that an earlier run published without recording them, and later those of this run
      const done: Array<string> = []
      const letterIds: Array<string> = []
      const finished = ({ id, letter }: Plan) => {
        done.push(id)
        letterIds.push(Record.letterIdOf(letter.delivery))
      }
      const begun = new Set<string>()
      for (const one of letters.map(plan)) {
        const { channel, id, isIncomplete } = one
        if (record.isDiscarded(Record.letterIdOf(one.letter.delivery))) steps.push({ plan: one, how: "discarded" })
        else if (isIncomplete) steps.push({ plan: one, how: "incomplete" })
        // the engine may write the same letter twice
        else if (record.isDone(id) || begun.has(id)) steps.push({ plan: one, how: "already" })
        else if (yield* record.isFound(id, channel)) {
          finished(one)
          steps.push({ plan: one, how: "already" })
        } else {
          begun.add(id)
          steps.push({ plan: one, how: "published" })
        }
      }
      const rest = steps.filter(({ how }) => how === "published")
      yield* record.begin(Array.from(begun))
      yield* Effect.forEach(rest, (step) =>
        Effect.matchEffect(send(step.plan, obeyed), {
          onSuccess: () => Effect.sync(() => finished(step.plan)),
          onFailure: (error) => {
            if (!isAboutMessage(error)) return Effect.fail(error)
            step.how = "refused"
            step.error = error
            return Effect.void
          }
        }), { discard: true })
        .pipe(
          Effect.onError(() => Effect.ignore(record.finish(done, letterIds)))
        )
      yield* record.finish(done, letterIds)
      return steps.map(({ error, how, plan: { channel, letter } }) => new Replayed({ letter, channel, how, error }))
    })

  return (
    source: string,
    letters: Stream.Stream<DeadLetter, BrokerError, On>
  ): Stream.Stream<Replayed, E | BrokerError, R | On> =>
    Stream.unwrap(Effect.gen(function*() {
      const broker = yield* key
      const record = yield* Record.open(broker, source)
      // without retention, no channel shows whether a letter in doubt was published: keep one letter in doubt at most
      const { instructions, retention } = broker.capabilities
      const size = retention ? together : 1
      return letters.pipe(
        Stream.grouped(size),
        Stream.mapEffect((group) => batch(record, group, instructions)),
        Stream.flattenIterable
      )
    }))
}

const isMissing = (error: unknown): error is BrokerError =>
  error instanceof BrokerErrors.BrokerError && error.reason === "NotFound"

/** Explains that the group takes no replays. */
const unread = (error: BrokerError, channel: string, { group }: DeadLetter): BrokerError =>
  BrokerErrors.make({
    system: error.system,
    operation: "publish",
    reason: "NotFound",
    message:
      `The channel ${channel} does not exist, so the group ${group} takes no replays: run Replays.layer(subscription) in its program, or replay with reach "all".`,
    cause: error
  })

/**
 * Publishes a dead letter again, for the failed group, with its original bytes, key and headers; completes when the broker
 * has confirmed it and the record names it. The message carries `passes`, so a later dead letter of it continues the count.
 * The letter stays where it is.
 *
 * In: a letter that `list` has read. Out: whether this run published it, or an earlier run had (`already`). `replay` declares
 * the channel `NAME.replayed` beside the dead letter channel and records there, before and after each publish, the letters of
 * a run, so a run after a crash at any moment publishes the missing letters and none twice: see docs/resilience.md for the
 * exact terms. One run at a time may replay from a channel.
 *
 * Needs the `Broker`, or the given one. Fails with its `BrokerError`: `Invalid` if the letter is incomplete, `NotFound` if
 * the group takes no replays; if the record could not be written the letter may have been published, and the next run finds
 * out. The needs and errors of `through` are added.
 *
 * @throws OrderError when the publish middlewares stand in a wrong order, RangeError when `reach` or `instructions` is none
 */
export const replay = <On = Broker, E = never, R = never>(
  letter: DeadLetter,
  options?: ReplayOptions<On, E, R>
): Effect.Effect<Replayed, E | BrokerError, R | On> =>
  Effect.flatMap(
    // one letter gives one answer
    Effect.map(Stream.runCollect(replaying(options)(letter.delivery.channel, Stream.succeed(letter))), ([one]) => one!),
    (one) => {
      const error = one.how === "incomplete" ? incomplete(letter) : one.error
      return error === undefined ? Effect.succeed(one) : Effect.fail(error)
    }
  )

const incomplete = ({ channel, delivery, omitted, partition, position }: DeadLetter): BrokerError =>
  BrokerErrors.make({
    system: delivery.origin.system,
    operation: "publish",
    reason: "Invalid",
    message: `The dead letter ${delivery.position} of ${delivery.channel} lacks ${
      omitted.length === 0 ? "its group" : `its ${omitted.join(" and ")}`
    }, so it cannot be replayed as it was. The message was read from ${channel}, partition ${partition}, position ${position}: publish it again from its source${
      omitted.length === 0 ? ", or replay with reach \"all\"" : ""
    }.`
  })

/**
 * Replays the dead letters of a channel that fit, oldest first, and emits the result for each letter.
 *
 * In: the dead letter channel, and a filter. Out: a stream that replays as it is run. It holds at most 100 letters at a time,
 * and the ids of replayed letters, about 100 bytes each. Letters that come back meanwhile are not replayed again. At its end
 * the stream logs at Info how many letters were published and how many were skipped, and why. Otherwise as `replay`, also
 * after a crash; a letter that is incomplete, or that the broker can never accept, is skipped, and another run tries it
 * again. A letter that a person has discarded is skipped in every run.
 *
 * Fails as `list` and `replay` do: the letters before the failed one have then been published, and another run continues
 * there.
 *
 * **Example** (all dead letters of one bug, for the failed group, and an audit row for each)
 *
 * ```ts
 * import { Effect, Layer, Logger, Stream } from "effect"
 * import { Audit, DeadLetters, MemoryBroker } from "@millrace/core"
 *
 * const program = DeadLetters.replayAll("orders.dead-letters", {
 *   filter: { group: "billing", errorType: "PaymentFailed" },
 *   through: Audit.middleware()
 * }).pipe(Stream.runFold(() => 0, (published, { how }) => how === "published" ? published + 1 : published))
 * const layer = Layer.mergeAll(MemoryBroker.layer(), Audit.layerMemory(), Logger.layer([]))
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // => 0
 * ```
 *
 * @throws OrderError when the publish middlewares stand in a wrong order, RangeError when `reach` or `instructions` is none
 */
export const replayAll = <On = Broker, E = never, R = never>(
  channel: string,
  options?: ReplayOptions<On, E, R> & { readonly filter?: Filter | undefined }
): Stream.Stream<Replayed, E | BrokerError, R | On> => {
  const all = replaying(options)
  return Stream.suspend(() => {
    const counts = { published: 0, already: 0, incomplete: 0, discarded: 0, refused: 0 }
    return all(channel, list(channel, options)).pipe(
      Stream.map((one) => {
        counts[one.how]++
        return one
      }),
      Stream.onEnd(Effect.suspend(() =>
        Effect.logInfo(
          `Replayed ${counts.published} dead letters of ${channel}; skipped ${counts.already} that were replayed before, ${counts.discarded} that were discarded, ${counts.incomplete} that are incomplete, and ${counts.refused} that the broker refuses`
        )
      ))
    )
  })
}
