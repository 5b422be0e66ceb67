/**
 * Hides messages of aborted transactions. kafkajs 2.2.4 would deliver some of them: it uses the list of aborted transactions
 * in the broker's order, which is by their ends, and mistakes a message whose key is four zero bytes for an abort marker.
 *
 * Rule: https://kafka.apache.org/documentation/#controlbatch, and the use of the list in Java's client.
 */

/** A record as kafkajs reads it, with fields that kafkajs's types omit. */
export interface FetchedRecord {
  readonly key: Buffer | null
  readonly offset: string
  /** kafkajs hides such records from its users, and counts their positions. */
  isControlRecord?: boolean
  /** Absent in the formats before transactions. */
  readonly batchContext?: { readonly producerId: string; readonly inTransaction: boolean }
}

/** One partition of a fetch. */
export interface FetchedPartition {
  abortedTransactions?: ReadonlyArray<{ readonly producerId: string; readonly firstOffset: string }> | null
  readonly messages: ReadonlyArray<FetchedRecord>
}

// version and type, two bytes each; the types are 0, abort, and 1, commit
const isAbortMark = ({ isControlRecord, key }: FetchedRecord): boolean =>
  isControlRecord === true && key !== null && key.length >= 4 && key.readInt16BE(2) === 0

/** Marks the messages of aborted transactions, so that kafkajs delivers none of them. */
export const hide = (partition: FetchedPartition): void => {
  const { abortedTransactions, messages } = partition
  if (abortedTransactions == null || abortedTransactions.length === 0) return
  const starts = abortedTransactions.map(({ firstOffset, producerId }) => ({ first: BigInt(firstOffset), producerId }))
    .sort((a, b) => a.first < b.first ? -1 : a.first > b.first ? 1 : 0)
  const aborted = new Set<string>()
  let started = 0
  for (const record of messages) {
    while (started < starts.length && starts[started]!.first <= BigInt(record.offset)) {
      aborted.add(starts[started++]!.producerId)
    }
    const { batchContext } = record
    if (batchContext?.inTransaction !== true) continue
    if (isAbortMark(record)) aborted.delete(batchContext.producerId)
    else if (aborted.has(batchContext.producerId)) record.isControlRecord = true
  }
  // kafkajs has nothing left to do
  partition.abortedTransactions = []
}
