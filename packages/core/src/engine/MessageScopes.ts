/**
 * A scope for each message: what its handler opens is closed before the message is settled.
 *
 * Handlers that open nothing cost nothing: messages share one scope for as long as none of them has used it or is suspended.
 */
import { Context, type Effect, type Exit, Fiber, Scope } from "effect"

/** The scopes of the messages of a worker. */
export class MessageScopes<R> {
  /** The services of the message that starts next, with its scope. */
  context: Context.Context<R | Scope.Scope>
  /** The scope of the message that starts next. */
  scope: Scope.Closeable
  private readonly base: Context.Context<R>

  constructor(base: Context.Context<R>) {
    this.base = base
    this.scope = Scope.makeUnsafe()
    this.context = Context.add(base, Scope.Scope, this.scope)
  }

  /** Gives the current fiber, which is the loop's, the services of the message that starts next. */
  enter(): void {
    Fiber.getCurrent()?.setContext(this.context as Context.Context<never>)
  }

  /** Leaves the present scope to the message that has it. Called on the loop's fiber. */
  rotate(): void {
    this.scope = Scope.makeUnsafe()
    this.context = Context.add(this.base, Scope.Scope, this.scope)
    this.enter()
  }
}

/** Closes the scope of a message; undefined where it holds nothing. */
export const closed = (
  scope: Scope.Closeable,
  exit: Exit.Exit<unknown, unknown>
): Effect.Effect<void> | undefined => scope.state._tag === "Open" ? Scope.close(scope, exit) : undefined
