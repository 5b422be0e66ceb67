/**
 * The books of a run: what was published, what handlers wrote down, what the audit holds, what the group has committed; and
 * the rules that these four keep at every moment.
 */
import { Broker, type BrokerError, DeadLetters, Headers, Outgoing } from "@millrace/core"
import { KafkaAdmin } from "@millrace/kafka"
import { Effect, Schedule, Stream } from "effect"
import { existsSync, mkdirSync, mkdtempSync, openSync, readSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"

export interface Place {
  readonly channel: string
  readonly group: string
  readonly partitions: number
  readonly keys: number
  /** Whether something makes messages come again in the lease that has them, as a failed audit row does. */
  readonly comesAgain?: boolean
}

/** What became of the messages that a life had handled and the group had not committed when it ended. */
export interface Left {
  /** Settled, their audit rows there: their commit was on its way, or waited for a message before them. */
  readonly audited: number
  /** Not settled. */
  readonly inFlight: number
}

const encoder = new TextEncoder()

export class Evidence {
  readonly folder = mkdtempSync(join(tmpdir(), "millrace-faults-"))
  readonly witness = join(this.folder, "witness")
  readonly auditFolder = join(this.folder, "audit")
  readonly audit = join(this.auditFolder, "audit.db")
  /** What broke a rule, as sentences. */
  readonly broken: Array<string> = []
  /** Texts that Kafka has confirmed; of the others, it may hold some. */
  readonly confirmed = new Set<string>()
  handled = 0
  /** Runs of messages that had been handled before. */
  repeated = 0
  /** Those whose last run was another life's. */
  inherited = 0
  rows = 0

  private readonly place: Place
  private published = 0
  private readonly file = openSync(this.witness, "a+")
  private read = 0
  private rest = ""
  private statement: StatementSync | undefined
  private lastRow = 0
  private readonly texts = new Set<string>()
  // by partition, and there by position
  private readonly lives: ReadonlyArray<Array<number>>
  private readonly audited: ReadonlyArray<Array<boolean>>
  private readonly committed: Array<number>
  // the sequence number of a key that was handled last: of all, and of one lease
  private readonly highest = new Map<string, number>()
  private readonly last = new Map<string, number>()
  // what is suspended, by lease and key
  private readonly running = new Map<string, number>()

  constructor(place: Place) {
    this.place = place
    mkdirSync(this.auditFolder)
    const each = <A>(make: () => A): Array<A> => Array.from({ length: place.partitions }, make)
    this.lives = each(() => [])
    this.audited = each(() => [])
    this.committed = each(() => 0)
  }

  /** Publishes so many more; each says its key and its number among those of its key. */
  publish(count: number): Effect.Effect<void, BrokerError.BrokerError, Broker.Broker> {
    return Effect.suspend(() => {
      const texts = Array.from({ length: count }, () => {
        const n = this.published++
        return `k${n % this.place.keys} ${Math.floor(n / this.place.keys)}`
      })
      const batch = texts.map((text) =>
        new Outgoing(this.place.channel, encoder.encode(text), text.split(" ")[0], Headers.empty)
      )
      return Effect.flatMap(Broker.Broker, (broker) => broker.publishAll(batch)).pipe(
        Effect.andThen(Effect.sync(() => texts.forEach((text) => this.confirmed.add(text))))
      )
    })
  }

  /** Takes the evidence as it is now, and holds it against the rules. */
  readonly look: Effect.Effect<void, BrokerError.BrokerError, KafkaAdmin.KafkaAdmin> = Effect.gen(
    { self: this },
    function*() {
      // positions first: what is committed now must have been in the audit before
      const progress = yield* this.progress
      this.readAudit()
      this.readWitness()
      for (const { committed = 0, partition } of progress) {
        for (let position = this.committed[partition]!; position < committed; position++) {
          const what = `${partition}/${position} is committed`
          if (!this.audited[partition]![position]) this.broken.push(`${what} and has no audit row`)
          if (this.lives[partition]![position] === undefined) this.broken.push(`${what} and was never handled`)
        }
        // a position never goes back, but it is asked for again while a commit is on its way
        this.committed[partition] = Math.max(this.committed[partition]!, committed)
      }
    }
  )

  /** Keeps others from writing to the audit until the answer is called. */
  lock(): () => void {
    const database = new DatabaseSync(this.audit, { timeout: 5000 })
    database.exec("BEGIN IMMEDIATE")
    return () => {
      database.exec("ROLLBACK")
      database.close()
    }
  }

  /** What a life that has ended leaves to the next one. Look first. */
  left(life: number): Left {
    let audited = 0
    let inFlight = 0
    this.lives.forEach((lives, partition) => {
      for (let position = this.committed[partition]!; position < lives.length; position++) {
        if (lives[position] !== life) continue
        if (this.audited[partition]![position]) audited++
        else inFlight++
      }
    })
    return { audited, inFlight }
  }

  /** Runs of handlers so far. */
  get runs(): number {
    this.readWitness()
    return this.handled
  }

  /** Confirmed messages that no handler has seen, where nothing but those was published. */
  get unhandled(): number {
    return this.confirmed.size - this.texts.size
  }

  /** What the group has committed, and what there is. */
  get progress() {
    const { channel, group } = this.place
    return Effect.flatMap(KafkaAdmin.KafkaAdmin, (admin) => admin.lag(group, channel))
  }

  /** Waits until the group has committed all there is. */
  readonly untilDone: Effect.Effect<void, BrokerError.BrokerError, KafkaAdmin.KafkaAdmin> = Effect.suspend(() =>
    Effect.asVoid(Effect.repeat(this.progress, {
      until: (progress) => progress.every(({ lag }) => lag <= 0),
      schedule: Schedule.spaced("100 millis")
    }))
  )

  /** What is amiss at the end: messages that no handler saw, positions that are not committed, dead letters. Look first. */
  readonly amiss: Effect.Effect<
    ReadonlyArray<string>,
    BrokerError.BrokerError,
    Broker.Broker | KafkaAdmin.KafkaAdmin
  > = Effect.gen({ self: this }, function*() {
    const letters = yield* Stream.runCollect(DeadLetters.list(DeadLetters.channelOf(this.place.channel)))
    return [
      ...[...this.confirmed].filter((text) => !this.texts.has(text)).map((text) => `${text} was never handled`),
      ...(yield* this.progress).filter(({ committed, high }) => committed !== high).map(
        ({ committed, high, partition }) => `${partition} is committed up to ${committed} of ${high}`
      ),
      ...letters.map(({ errorMessage, partition, position }) => `${partition}/${position} is dead: ${errorMessage}`)
    ]
  })

  /** Every position that was handled is committed, so nothing of it comes again. Look first. */
  get uncommitted(): ReadonlyArray<string> {
    return this.lives.flatMap((lives, partition) => {
      const committed = this.committed[partition]!
      return lives.length > committed ? [`${partition} is committed up to ${committed} of ${lives.length}`] : []
    })
  }

  private readAudit(): void {
    if (!existsSync(this.audit)) return
    this.statement ??= new DatabaseSync(this.audit, { readOnly: true }).prepare(
      "SELECT id, partition, position FROM audit WHERE id > ? AND status = 'done' ORDER BY id"
    )
    for (const { id, partition, position } of this.statement.iterate(this.lastRow)) {
      this.audited[Number(partition)]![Number(position)] = true
      this.lastRow = Number(id)
      this.rows++
    }
  }

  private readWitness(): void {
    const buffer = Buffer.allocUnsafe(1 << 20)
    for (;;) {
      const length = readSync(this.file, buffer, 0, buffer.length, this.read)
      if (length === 0) return
      this.read += length
      const lines = (this.rest + buffer.toString("latin1", 0, length)).split("\n")
      this.rest = lines.pop()!
      for (const line of lines) this.take(line)
    }
  }

  private take(line: string): void {
    if (line.startsWith("end ")) {
      const [life = "", lease = "", partition = "", , key = ""] = line.slice(4).split(" ")
      this.running.delete(`${life} ${lease} ${partition} ${key}`)
      return
    }
    const [life = "", lease = "", where = "", at = "", key = "", number = ""] = line.split(" ")
    const [partition, position, n] = [Number(where), Number(at), Number(number)]
    const text = `${key} ${number}`
    this.handled++
    if (position < this.committed[partition]!) {
      this.broken.push(`${line}: handled again after ${this.committed[partition]} was committed`)
    }
    const before = this.lives[partition]![position]
    if (before !== undefined) this.repeated++
    if (before !== undefined && before !== Number(life)) this.inherited++
    this.lives[partition]![position] = Number(life)

    const highest = this.highest.get(key) ?? -1
    if (n > highest) this.highest.set(key, n)
    else if (!this.texts.has(text)) this.broken.push(`${line}: first handled after ${highest} of its key`)
    this.texts.add(text)

    const tenure = `${life} ${lease} ${partition} ${key}`
    const running = this.running.get(tenure)
    if (running !== undefined) this.broken.push(`${line}: handled while ${running} of its key was not over`)
    if (position % 8 === 0) this.running.set(tenure, n)
    const last = this.last.get(tenure) ?? -1
    if (n <= last && this.place.comesAgain !== true) {
      this.broken.push(`${line}: handled after ${last} of its key, in one lease`)
    }
    this.last.set(tenure, n)
  }
}
