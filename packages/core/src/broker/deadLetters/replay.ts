/**
 * Replays dead letters: publishes them again as they were, for the group that failed or for all, each once.
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
 * What a replay did with a dead letter.
 *
 * - `published`: it published it, and the broker has confirmed it
 * - `already`: an earlier run with the same target and `run` has published it, so this one did not
 * - `incomplete`: it cannot publish it as it was, since the letter lacks what `omitted` names, or its group
 * - `refused`: the broker can never take the message in this channel (`TooLarge`, `Invalid` or `Unsupported`), as `error` says
 */
export class Replayed extends Data.Class<{
  readonly letter: DeadLetter
  /** The channel that the letter was, or would be, published to. */
  readonly channel: string
  readonly how: "published" | "already" | "incomplete" | "refused"
  /** Why the broker refused it; undefined unless it did. */
  readonly error: BrokerError | undefined
}> {}

/** How dead letters are published again. */
export interface ReplayOptions<On, E, R> extends Options<On> {
  /**
   * Which groups get it: `group`, the one that failed, by its channel `CHANNEL.GROUP.replay`, which `Replays.layer` reads in
   * the program of that group; `all`, every group that reads the channel that the message came from. Default: `group`.
   */
  readonly reach?: "group" | "all" | undefined
  /** Another channel to publish to, whose groups all get it; `reach` does not apply then. */
  readonly to?: string | undefined
  /**
   * The name of the replay. What a run of this name has published to a channel is not published there by another run of the
   * name; to replay the same letters once more, give another name. Default: the empty name.
   */
  readonly run?: string | undefined
  /**
   * The instructions to the broker that the message came with (expiry, retain, priority, an id against duplicates):
   * `keep` publishes them as information, `obey` gives them to the broker again. Default: `keep`.
   */
  readonly instructions?: "keep" | "obey" | undefined
  /** Publish middlewares, e.g. `Audit.middleware()`: a replay is a publish like any other. Default: none. */
  readonly through?: Through<Uint8Array, E, R, On> | undefined
}

// letters that are named by one message of the record
const together = 100

/** A letter, and the message that it becomes. */
interface Plan {
  readonly letter: DeadLetter
  readonly id: string
  readonly channel: string
  readonly isIncomplete: boolean
  /** In: the headers that the broker obeys. */
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

  /** Publishes a batch between its two entries of the record; where one fails, those before it are recorded. */
  const batch = (
    record: Record.ReplayRecord,
    letters: ReadonlyArray<DeadLetter>,
    obeyed: ReadonlyArray<string> | undefined
  ) =>
    Effect.gen(function*() {
      const steps: Array<{ readonly plan: Plan; how: Replayed["how"]; error?: BrokerError }> = []
      // those of a run that ended before it could say so
      const done: Array<string> = []
      const begun = new Set<string>()
      for (const one of letters.map(plan)) {
        const { channel, id, isIncomplete } = one
        if (isIncomplete) steps.push({ plan: one, how: "incomplete" })
        // a letter that the engine wrote twice is one
        else if (record.isDone(id) || begun.has(id)) steps.push({ plan: one, how: "already" })
        else if (yield* record.isFound(id, channel)) {
          done.push(id)
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
          onSuccess: () => Effect.sync(() => void done.push(step.plan.id)),
          onFailure: (error) => {
            if (!isAboutMessage(error)) return Effect.fail(error)
            step.how = "refused"
            step.error = error
            return Effect.void
          }
        }), { discard: true })
        .pipe(
          Effect.onError(() => Effect.ignore(record.finish(done)))
        )
      yield* record.finish(done)
      return steps.map(({ error, how, plan: { channel, letter } }) => new Replayed({ letter, channel, how, error }))
    })

  return (
    source: string,
    letters: Stream.Stream<DeadLetter, BrokerError, On>
  ): Stream.Stream<Replayed, E | BrokerError, R | On> =>
    Stream.unwrap(Effect.gen(function*() {
      const broker = yield* key
      const record = yield* Record.open(broker, source)
      // where nothing shows whether a letter in doubt was published, as few as can be are in doubt
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

/** The sentence for a group that takes no replays. */
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
 * Publishes a dead letter again, for the group that failed, with its original bytes, key and headers; completes when the
 * broker has confirmed it and the record names it. `passes` goes with it, so a message that comes back is known. The letter
 * stays where it is.
 *
 * In: a letter that `list` has read. Out: whether it was published, or was `already` by an earlier run. The record of what was
 * replayed is the channel `NAME.replayed` beside the dead letter channel, which is declared. It is written before and after
 * each publish, so a run after a crash at any moment publishes the missing letters and none twice: see docs/resilience.md for
 * the exact terms. One run at a time may replay from a channel.
 *
 * Needs the `Broker`, or the one given. Fails with its `BrokerError`: `Invalid` where the letter is incomplete, `NotFound`
 * where the group takes no replays; when the record could not be written the letter may have been published, and the next run
 * finds out. What `through` needs and fails with comes beside it.
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
 * Replays the dead letters of a channel that fit, oldest first, and emits the result for each letter as it is known.
 *
 * In: the dead letter channel, and which letters. Out: a stream that replays as it is run; of the letters it holds 100 at a
 * time, and of those replayed before their ids, about 100 bytes each. What comes back meanwhile is not replayed again. At its
 * end it logs at Info how many were published and how many were skipped, and why. In all else as `replay`, also after a crash;
 * a letter that is incomplete, or that the broker can never take, is skipped, and another run tries it again.
 *
 * Fails as `list` and `replay` do: then those before the one that failed have been published, and another run goes on there.
 *
 * **Example** (all that one bug has caused, for the group that failed, and an audit row for each)
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
    const counts = { published: 0, already: 0, incomplete: 0, refused: 0 }
    return all(channel, list(channel, options)).pipe(
      Stream.map((one) => {
        counts[one.how]++
        return one
      }),
      Stream.onEnd(Effect.suspend(() =>
        Effect.logInfo(
          `Replayed ${counts.published} dead letters of ${channel}; skipped ${counts.already} that were replayed before, ${counts.incomplete} that are incomplete, and ${counts.refused} that the broker refuses`
        )
      ))
    )
  })
}
