/**
 * Scenarios of dead letters and delayed retries that a broker refuses for good in their full form: their own headers make
 * them too long, or the error's text is not valid for the broker.
 */
import { DeadLetters, Retries } from "@millrace/core"
import { Effect } from "effect"
import { createHash } from "node:crypto"
import { type Bench, type Broken, type Consumer, ensure, same, textOf, Trouble } from "./Bench.ts"
import { type Failures, type Scenario, scenario } from "./Scenario.ts"

/** Error messages that a broker may refuse, by the body of the message that fails with them. */
const errors: Readonly<Record<string, string>> = {
  "bad lines": "duplicate key\nDETAIL: Key (id)=(7) already exists\r\n\tat commit",
  "bad NUL": "a\0b\u0001c\u007f",
  "bad half": "half of a pair \ud83d and a character that is none \uffff",
  "bad length": "é".repeat(200_000),
  "bad nothing": ""
}

/** The last accepted number from `low` to `high`, if all numbers up to it are accepted; `low` must be. */
const longest = (
  low: number,
  high: number,
  accepts: (length: number) => Effect.Effect<boolean, Failures>
): Effect.Effect<number, Failures> =>
  Effect.gen(function*() {
    let [taken, refused] = [low, high + 1]
    while (refused - taken > 1) {
      const middle = (taken + refused) >> 1
      if (yield* accepts(middle)) taken = middle
      else refused = middle
    }
    return taken
  })

/** Whether a publish is confirmed; a retriable error does not concern the message and fails the scenario. */
const isTaken = (bench: Bench, body: Uint8Array | string, headers: Readonly<Record<string, string>>, channel: string) =>
  bench.send(body, { channel, headers }).pipe(
    Effect.as(true),
    Effect.catch((error) => error.retriable ? Effect.fail(error) : Effect.succeed(false))
  )

const digestOf = (body: Uint8Array): string => `sha-256=:${createHash("sha256").update(body).digest("base64")}:`

/** Checks that a dead letter has the body, or its digest. */
const keeps = (body: Uint8Array, letter: Consumer["got"][number]): Effect.Effect<void, Broken> => {
  const { headers, raw } = letter.delivery
  const isWhole = Buffer.compare(raw, body) === 0
  return ensure(
    isWhole || (raw.length === 0 && headers["dead-letter-body-digest"] === digestOf(body)),
    () => `a dead letter has ${raw.length} bytes of another body than ${textOf(body.subarray(0, 20))}…`
  )
}

/** Publishes each message, and another after it for the same lane; each must be settled, once. */
const settled = (
  bench: Bench,
  consumer: Consumer,
  letters: Consumer,
  messages: ReadonlyArray<readonly [body: Uint8Array, headers: Readonly<Record<string, string>>]>
): Effect.Effect<void, Failures> =>
  Effect.gen(function*() {
    for (const [i, [body, headers]] of messages.entries()) {
      yield* bench.send(body, { key: "k", headers })
      yield* bench.send(`next ${i}`, { key: "k" })
      yield* bench.until(
        `the message after ${textOf(body.subarray(0, 20))} is handled`,
        () => consumer.done.includes(`next ${i}`),
        () => consumer.texts.map((text) => text.slice(0, 20))
      )
    }
    yield* bench.until("all are dead letters", () => letters.got.length >= messages.length, () => ({
      dead: letters.texts.map((t) => t.slice(0, 20)),
      got: consumer.got.map(({ attempt, text }) => [attempt, text.slice(0, 20)])
    }))
    yield* bench.untilSome(
      "all is settled",
      Effect.map(consumer.health, ({ lanes, pending }) => (pending === 0 && lanes.length === 0) || undefined)
    )
    yield* bench.quiet
    yield* same("dead letters", letters.got.length, messages.length)
    for (const [i, [body]] of messages.entries()) {
      const letter = letters.got[i]!
      yield* keeps(body, letter)
      const { names } = DeadLetters
      yield* same(
        "where it came from, and its error",
        [names.channel, names.group, names.errorType].map((name) => letter.delivery.headers[name]),
        [bench.channel, bench.group, "Trouble"]
      )
    }
  })

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** A handler that fails for bodies that begin with `bad`, and accepts the messages that measure the limits. */
const fails = (failure: "permanent" | "transient") => ({ raw }: { readonly raw: Uint8Array }) => {
  const text = textOf(raw.subarray(0, 100))
  return text.startsWith("bad")
    ? Effect.fail(new Trouble({ failure, message: errors[text] ?? "too long" }))
    : Effect.void
}

const said: Scenario = scenario(
  "refused-error",
  "a dead letter is written whatever the error says, and the next message of its lane goes on",
  ["F22", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(fails("permanent"))
      yield* settled(bench, consumer, letters, Object.keys(errors).map((text) => [bytes(text), {}]))
    })
)

const headers: Scenario = scenario(
  "refused-headers",
  "a message with the longest header that its broker takes becomes a dead letter, and the next of its lane goes on",
  ["F22", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(fails("permanent"))
      // another name of the same length: the name of a NATS subject counts toward the measured size
      const trial = `${bench.channel.slice(0, -1)}-`
      yield* bench.declare(1, trial)
      yield* bench.reader({ channel: trial, group: `${bench.group}-trial` })
      const length = yield* longest(1, 200_000, (n) => isTaken(bench, "size", { long: "v".repeat(n) }, trial))
      const lengths = [length - 1200, length - 700, length - 200, length - 60].filter((each) => each > 0)
      yield* settled(
        bench,
        consumer,
        letters,
        lengths.map((n) => [bytes(`bad header of ${n}`), { long: "v".repeat(n) }] as const)
      )
    })
)

/** Bodies almost as long as the broker accepts, beside which no header has room. */
const bodies = (bench: Bench, most: number): Effect.Effect<ReadonlyArray<Uint8Array>, Failures> =>
  Effect.gen(function*() {
    const trial = `${bench.channel.slice(0, -1)}-`
    yield* bench.declare(1, trial)
    yield* bench.reader({ channel: trial, group: `${bench.group}-trial` })
    const length = yield* longest(most >> 1, most + 8192, (n) => isTaken(bench, new Uint8Array(n).fill(98), {}, trial))
    return [length - 100, length - 500].map((n) => {
      const body = new Uint8Array(n).fill(98)
      body.set(bytes("bad body"))
      return body
    })
  })

const body: Scenario = scenario(
  "refused-body",
  "a message as long as its broker takes becomes a dead letter, by a digest where it is too long with its reasons, and the next goes on",
  ["F22", "X5"],
  (bench, { maximumBytes }) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(fails("permanent"))
      const all = yield* bodies(bench, maximumBytes!)
      yield* settled(bench, consumer, letters, all.map((each) => [each, {}]))
    }),
  { needs: ["limit"] }
)

const delayed: Scenario = scenario(
  "refused-delay",
  "a message as long as its broker takes whose delayed retry is refused comes to its end, and the next goes on",
  ["F22", "X5"],
  (bench, { maximumBytes }) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const retries = Retries.delayed([20, 40], { prefix: bench.channel })
      if (!bench.capabilities.delay) {
        for (const level of [1, 2]) yield* bench.declare(1, Retries.channelOf(bench.channel, level))
      }
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(fails("transient"), { retries, hold: { attempts: 3 } })
      const all = yield* bodies(bench, maximumBytes!)
      yield* settled(bench, consumer, letters, all.map((each) => [each, {}]))
    }),
  { needs: ["limit", "redelivery"] }
)

/** Dead letters and delayed retries that must be shortened. */
export const refused: ReadonlyArray<Scenario> = [said, headers, body, delayed]
