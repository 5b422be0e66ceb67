/**
 * A queue that drops its references to items as they leave: an old array with references to them would keep whole batches alive
 * until the next full garbage collection.
 */

/** The most free places at the front that are not worth a move. */
const slack = 32

/** First in, first out; both ends in constant time, on average. */
export class Fifo<A> {
  private readonly items: Array<A | undefined> = []
  private head = 0

  get length(): number {
    return this.items.length - this.head
  }

  push(item: A): void {
    this.items.push(item)
  }

  /** Puts an item before all others. */
  unshift(item: A): void {
    if (this.head > 0) this.items[--this.head] = item
    else this.items.unshift(item)
  }

  /** Returns the first item; undefined if the queue is empty. */
  peek(): A | undefined {
    return this.items[this.head]
  }

  shift(): A | undefined {
    const { items } = this
    if (this.head === items.length) return undefined
    const item = items[this.head]
    items[this.head++] = undefined
    if (this.head * 2 > items.length + slack) {
      items.splice(0, this.head)
      this.head = 0
    }
    return item
  }

  /** Inserts an item before the items at the end for which `isLater` is true. */
  insert(item: A, isLater: (other: A) => boolean): void {
    let at = this.items.length
    while (at > this.head && isLater(this.items[at - 1] as A)) at--
    this.items.splice(at, 0, item)
  }

  /** Drops the items for which `isGone` is true. */
  drop(isGone: (item: A) => boolean): void {
    const kept = Array.from(this).filter((item) => !isGone(item))
    this.items.length = 0
    this.head = 0
    for (const item of kept) this.items.push(item)
  }

  *[Symbol.iterator](): Generator<A> {
    // places before the head are free
    for (let i = this.head; i < this.items.length; i++) yield this.items[i] as A
  }
}
