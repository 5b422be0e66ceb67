/**
 * The books of a chaos run: what was produced, what handlers wrote down, and the rules that both keep.
 */
import { openSync, readSync, writeFileSync } from "node:fs"
import { join } from "node:path"

/** What a broker promises of the messages of a run. */
export interface Promises {
  /** Whether each confirmed message is handled. */
  readonly delivery: "at-least-once" | "at-most-once"
  /** Whether the messages of a key are handled in order, by whichever process. */
  readonly isOrdered: boolean
}

/** What came of a run. */
export interface Account {
  readonly produced: number
  readonly confirmed: number
  /** Published without an answer: the broker may have them or not. */
  readonly unsure: number
  /** Different messages handled. */
  readonly handled: number
  /** Runs of handlers for messages that had been handled before. */
  readonly repeated: number
  /** Confirmed and never handled. */
  readonly lost: number
}

/** One for each run. Texts are `key number`; the numbers of a key grow by one. */
export class Ledger {
  readonly file: string
  readonly confirmed = new Set<string>()
  readonly unsure = new Set<string>()
  /** What may have broken a rule: the message, and a sentence. */
  private readonly suspects: Array<readonly [text: string, sentence: string]> = []
  private readonly promises: Promises
  private readonly keys: number
  private readonly witness: number
  private readonly handled = new Map<string, number>()
  private readonly highest = new Map<string, number>()
  private produced = 0
  private read = 0
  private rest = ""
  private repeated = 0

  constructor(folder: string, keys: number, promises: Promises) {
    this.file = join(folder, "handled")
    writeFileSync(this.file, "")
    this.witness = openSync(this.file, "r")
    this.keys = keys
    this.promises = promises
  }

  /** The next texts to publish. */
  next(count: number): ReadonlyArray<string> {
    return Array.from({ length: count }, () => {
      const n = this.produced++
      return `k${n % this.keys} ${Math.floor(n / this.keys)}`
    })
  }

  confirm(texts: ReadonlyArray<string>): void {
    for (const text of texts) this.confirmed.add(text)
  }

  /** Their publishing failed: of such a batch any part may have been written. */
  doubt(texts: ReadonlyArray<string>): void {
    for (const text of texts) this.unsure.add(text)
  }

  /** Takes what handlers have written since it was last asked. */
  look(): Account {
    const buffer = Buffer.allocUnsafe(1 << 20)
    for (;;) {
      const length = readSync(this.witness, buffer, 0, buffer.length, this.read)
      if (length === 0) break
      this.read += length
      const lines = (this.rest + buffer.toString("latin1", 0, length)).split("\n")
      this.rest = lines.pop()!
      for (const line of lines) this.take(line)
    }
    let lost = 0
    for (const text of this.confirmed) if (!this.handled.has(text)) lost++
    return {
      produced: this.produced,
      confirmed: this.confirmed.size,
      unsure: this.unsure.size,
      handled: this.handled.size,
      repeated: this.repeated,
      lost
    }
  }

  /** The first confirmed messages that nobody has handled. */
  missing(most: number): ReadonlyArray<string> {
    const found: Array<string> = []
    for (const text of this.confirmed) {
      if (found.length === most) break
      if (!this.handled.has(text)) found.push(text)
    }
    return found
  }

  /**
   * What broke a rule, as sentences. A message that was published without an answer may be written later than those that were
   * published after it: whoever goes on without an answer has no order for that one.
   */
  get broken(): ReadonlyArray<string> {
    return this.suspects.filter(([text]) => !this.unsure.has(text)).map(([, sentence]) => sentence)
  }

  /** `life key number`, as its handler began. */
  private take(line: string): void {
    const [life = "", key = "", number = ""] = line.split(" ")
    const text = `${key} ${number}`
    const n = Number(number)
    const times = this.handled.get(text) ?? 0
    this.handled.set(text, times + 1)
    if (times > 0) {
      this.repeated++
      if (this.promises.delivery === "at-most-once") {
        this.suspects.push([text, `${text} was handled again, by life ${life}`])
      }
      return
    }
    if (Number.isNaN(n) || n * this.keys >= this.produced) this.suspects.push(["", `${line}: nobody published that`])
    const highest = this.highest.get(key) ?? -1
    if (n > highest) this.highest.set(key, n)
    else if (this.promises.isOrdered) {
      this.suspects.push([text, `${text} was first handled after ${highest} of its key, by life ${life}`])
    }
  }
}
