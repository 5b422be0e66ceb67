/**
 * The listeners of one process, by the id of a task.
 */

/** Keeps listeners until they leave. */
export class Watchers {
  private readonly listeners = new Map<string, Set<() => void>>()

  /** Adds a listener; returns a function that removes it. */
  readonly watch = (id: string, listener: () => void): () => void => {
    const found = this.listeners.get(id) ?? new Set()
    this.listeners.set(id, found)
    found.add(listener)
    return () => {
      found.delete(listener)
      if (found.size === 0 && this.listeners.get(id) === found) this.listeners.delete(id)
    }
  }

  /** Calls the listeners of an id. */
  readonly tell = (id: string): void => {
    // copied: a listener may leave and watch again at once
    for (const listener of Array.from(this.listeners.get(id) ?? [])) listener()
  }

  /** Calls all listeners: events may have been missed. */
  readonly tellAll = (): void => {
    for (const id of Array.from(this.listeners.keys())) this.tell(id)
  }
}
