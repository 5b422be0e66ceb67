/**
 * The open dead letters of a channel, in groups of one kind of failure.
 */
import { type Broker, type BrokerError, DeadLetters, type Redaction } from "@millrace/core"
import { bodyText } from "@millrace/core/text"
import { Fingerprint } from "@millrace/monitor"
import { Clock, Effect, Stream } from "effect"

/** A dead letter as the page shows it. */
export interface Letter {
  readonly id: string
  readonly position: number
  readonly key: string | undefined
  /** Unix time in milliseconds at which the message was given up. */
  readonly at: number
  readonly attempts: number
  readonly passes: number
  readonly error: string
  /** The parts that the letter lacks. */
  readonly omitted: ReadonlyArray<string>
  /** The beginning of the body, with secrets replaced; undefined if there is none, or bodies are not shown. */
  readonly body: string | undefined
}

/** Letters whose messages were given up by one handler for one kind of error. */
export interface Group {
  readonly id: string
  readonly channel: string
  readonly group: string
  readonly handler: string
  readonly errorType: string
  /** The error's message, with placeholders for ids, times and numbers. */
  readonly message: string
  readonly count: number
  /** Unix time in milliseconds. */
  readonly first: number
  readonly last: number
  /** The ids of the first letters, at most `mostIds`: an action applies to these. */
  readonly ids: ReadonlyArray<string>
  /** The first letters, at most `mostShown`. */
  readonly letters: ReadonlyArray<Letter>
}

/** The open letters of one channel. */
export interface Letters {
  readonly channel: string
  /** Unix time in milliseconds of the read. */
  readonly at: number
  readonly open: number
  readonly replayed: number
  readonly discarded: number
  /** Whether the channel has more letters than were read. */
  readonly more: boolean
  readonly groups: ReadonlyArray<Group>
  /** The sentence that tells why the channel could not be read. */
  readonly error: string | undefined
}

/** The most letters of a group that the page shows. */
export const mostShown = 20
/** The most letters of a group that one action applies to. */
export const mostIds = 500
/** The most groups of a channel that the page shows. */
const mostGroups = 100

interface Growing extends Group {
  count: number
  first: number
  last: number
  readonly ids: Array<string>
  readonly letters: Array<Letter>
}

const empty = (channel: string, at: number): Letters => ({
  channel,
  at,
  open: 0,
  replayed: 0,
  discarded: 0,
  more: false,
  groups: [],
  error: undefined
})

/** Reads a channel, and shows `characters` of each body. At most `most` letters are read, the oldest first. */
export const read = (
  channel: string,
  { characters, most, redaction }: {
    readonly characters: number
    readonly most: number
    readonly redaction: Redaction.Redaction
  }
): Effect.Effect<Letters, never, Broker.Broker> =>
  Effect.gen(function*() {
    const at = yield* Clock.currentTimeMillis
    const stateOf = yield* DeadLetters.states(channel)
    const counts = { open: 0, replayed: 0, discarded: 0 }
    const groups = new Map<string, Growing>()
    let seen = 0
    const take = (letter: DeadLetters.DeadLetter) => {
      seen++
      // the last one only shows that there are more
      if (seen > most) return
      const state = stateOf(letter)
      counts[state]++
      if (state === "open") add(groups, letter, redaction, characters)
    }
    yield* DeadLetters.list(channel).pipe(
      Stream.take(most + 1),
      Stream.runForEach((letter) => Effect.sync(() => take(letter)))
    )
    const list = [...groups.values()].sort((a, b) => b.count - a.count)
    return { ...empty(channel, at), ...counts, more: seen > most, groups: list.slice(0, mostGroups) }
  }).pipe(
    Effect.catch((error: BrokerError.BrokerError) =>
      Effect.map(Clock.currentTimeMillis, (at) =>
        // no letter was written yet
        error.reason === "NotFound" ? empty(channel, at) : { ...empty(channel, at), error: error.message })
    )
  )

const add = (
  groups: Map<string, Growing>,
  letter: DeadLetters.DeadLetter,
  redaction: Redaction.Redaction,
  characters: number
): void => {
  const { at, attempts, channel, delivery, errorMessage, errorType, group, handler, omitted, passes } = letter
  const message = Fingerprint.parameterise(redaction.text(errorMessage.slice(0, 500)))
  const key = JSON.stringify([channel, group, handler, errorType, message])
  let found = groups.get(key)
  if (found === undefined) {
    found = {
      id: key,
      channel,
      group,
      handler,
      errorType,
      message,
      count: 0,
      first: at,
      last: at,
      ids: [],
      letters: []
    }
    groups.set(key, found)
  }
  found.count++
  found.first = Math.min(found.first, at)
  found.last = Math.max(found.last, at)
  const id = DeadLetters.idOf(letter)
  if (found.ids.length < mostIds) found.ids.push(id)
  if (found.letters.length >= mostShown) return
  found.letters.push({
    id,
    position: delivery.position,
    key: delivery.key === undefined ? undefined : redaction.text(delivery.key.slice(0, 200)),
    at,
    attempts,
    passes,
    error: redaction.text(errorMessage.slice(0, 500)),
    omitted,
    body: characters === 0 ? undefined : bodyText(redaction, delivery, characters)
  })
}
