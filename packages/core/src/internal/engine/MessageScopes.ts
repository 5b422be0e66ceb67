/**
 * A scope for each message: what its handler opens is closed before the message is settled.
 *
 * Handlers that open nothing cost little: messages share one scope for as long as none of them has used it or is suspended, and
 * a suspended message that has not used its scope leaves it to a later one.
 */
import { Context, type Effect, type Exit, Fiber, Scope } from "effect"

/** The scope of a message, and the services of its handler, of which it is one. */
export interface MessageScope<R> {
  readonly context: Context.Context<R | Scope.Scope>
  readonly scope: Scope.Closeable
}

/** The most unused scopes that are kept. */
const most = 1000

/** The scopes of the messages of a worker. */
export class MessageScopes<R> {
  /** Of the message that starts next. */
  next: MessageScope<R>
  private readonly base: Context.Context<R>
  private readonly unused: Array<MessageScope<R>> = []

  constructor(base: Context.Context<R>) {
    this.base = base
    this.next = this.make()
  }

  /** Gives the current fiber, which is the loop's, the services of the message that starts next. */
  enter(): void {
    Fiber.getCurrent()?.setContext(this.next.context as Context.Context<never>)
  }

  /** Leaves the present scope to the message that has it. Called on the loop's fiber. */
  rotate(): void {
    this.next = this.unused.pop() ?? this.make()
    this.enter()
  }

  /** The message that had a scope has ended. */
  free(own: MessageScope<R>): void {
    if (own.scope.state._tag === "Empty" && this.unused.length < most) this.unused.push(own)
  }

  private make(): MessageScope<R> {
    const scope = Scope.makeUnsafe()
    return { scope, context: Context.add(this.base, Scope.Scope, scope) }
  }
}

/** Closes the scope of a message; undefined where it holds nothing. */
export const closed = (
  scope: Scope.Closeable,
  exit: Exit.Exit<unknown, unknown>
): Effect.Effect<void> | undefined => scope.state._tag === "Open" ? Scope.close(scope, exit) : undefined
