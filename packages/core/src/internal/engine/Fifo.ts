/**
 * A queue that drops its references to items as they leave: an old array that still points to them would keep whole batches
 * alive until the next full garbage collection.
 */

/** Free places at the front that are not worth a move. */
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

  /** Puts one before all others. */
  unshift(item: A): void {
    if (this.head > 0) this.items[--this.head] = item
    else this.items.unshift(item)
  }

  /** The first; undefined where there is none. */
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

  /** Puts one before those at the end for which `isLater` holds. */
  insert(item: A, isLater: (other: A) => boolean): void {
    let at = this.items.length
    while (at > this.head && isLater(this.items[at - 1] as A)) at--
    this.items.splice(at, 0, item)
  }

  /** Drops the items for which `isGone` holds. */
  drop(isGone: (item: A) => boolean): void {
    const kept = Array.from(this).filter((item) => !isGone(item))
    this.items.length = 0
    this.head = 0
    for (const item of kept) this.items.push(item)
  }

  *[Symbol.iterator](): Generator<A> {
    // items before the head have left
    for (let i = this.head; i < this.items.length; i++) yield this.items[i] as A
  }
}
