/**
 * A scope for each message: resources opened by its handler are closed before the message is settled.
 *
 * Handlers that open nothing cost little: messages share one scope until one of them uses it or suspends, and a suspended
 * message that has not used its scope leaves it to a later message.
 */
import { Context, type Effect, type Exit, Fiber, Scope } from "effect"

/** The scope of a message, and the services of its handler, including the scope. */
export interface MessageScope<R> {
  readonly context: Context.Context<R | Scope.Scope>
  readonly scope: Scope.Closeable
}

/** The most unused scopes kept. */
const most = 1000

/** The scopes of the messages of a worker. */
export class MessageScopes<R> {
  /** The scope of the next message to start. */
  next: MessageScope<R>
  private readonly base: Context.Context<R>
  private readonly unused: Array<MessageScope<R>> = []

  constructor(base: Context.Context<R>) {
    this.base = base
    this.next = this.make()
  }

  /** Gives the current fiber, which is the loop's, the services of the next message. */
  enter(): void {
    Fiber.getCurrent()?.setContext(this.next.context as Context.Context<never>)
  }

  /** Leaves the current scope to its message, and takes another one. Called on the loop's fiber. */
  rotate(): void {
    this.next = this.unused.pop() ?? this.make()
    this.enter()
  }

  /** Reuses the scope of an ended message if it is unused. */
  free(own: MessageScope<R>): void {
    if (own.scope.state._tag === "Empty" && this.unused.length < most) this.unused.push(own)
  }

  private make(): MessageScope<R> {
    const scope = Scope.makeUnsafe()
    return { scope, context: Context.add(this.base, Scope.Scope, scope) }
  }
}

/** Closes the scope of a message; undefined if it is empty. */
export const closed = (
  scope: Scope.Closeable,
  exit: Exit.Exit<unknown, unknown>
): Effect.Effect<void> | undefined => scope.state._tag === "Open" ? Scope.close(scope, exit) : undefined
