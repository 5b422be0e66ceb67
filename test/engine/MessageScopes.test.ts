import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Scope } from "effect"
import { closed, MessageScopes } from "../../packages/core/src/internal/engine/MessageScopes.ts"

class Answer extends Context.Service<Answer, number>()("test/Answer") {}

/** The services of the fiber that runs, as a handler that is called on it finds them. */
const current = Effect.map(Effect.context<Answer | Scope.Scope>(), (context) => ({
  answer: Context.get(context, Answer),
  scope: Context.get(context, Scope.Scope)
}))

describe("F18 the scopes of messages", () => {
  it.effect("F18 the fiber of the loop has the scope of the message that starts next, and the worker's services", () =>
    Effect.gen(function*() {
      const scopes = new MessageScopes(Context.make(Answer, 42))
      const seen: Array<Scope.Scope> = []
      const look = Effect.gen(function*() {
        const { answer, scope } = yield* current
        assert.strictEqual(answer, 42)
        assert.deepStrictEqual([scope === scopes.next.scope, scope?.state._tag], [true, "Empty"])
        assert.strictEqual(Context.get(scopes.next.context, Scope.Scope), scope)
        assert.strictEqual(Context.get(scopes.next.context, Answer), 42)
        seen.push(scope)
      })
      const loop = Effect.gen(function*() {
        scopes.enter()
        yield* look
        scopes.rotate()
        yield* look
      })
      // the services that it has until it enters
      yield* loop.pipe(Effect.provideService(Answer, 1), Effect.provideService(Scope.Scope, Scope.makeUnsafe()))
      assert.strictEqual(new Set(seen).size, 2)
    }))

  it.effect("F18 a scope that its message has not used is left to a later one, and no other scope is", () =>
    Effect.gen(function*() {
      const scopes = new MessageScopes(Context.make(Answer, 42))
      const [unused, open, done] = [0, 1, 2].map(() => {
        const own = scopes.next
        scopes.rotate()
        return own
      })
      yield* Scope.addFinalizer(open!.scope, Effect.void)
      yield* Scope.addFinalizer(done!.scope, Effect.void)
      yield* Scope.close(done!.scope, Exit.void)
      for (const own of [unused!, open!, done!]) scopes.free(own)
      const started = scopes.next
      const next = [0, 1, 2, 3].map(() => {
        scopes.rotate()
        return scopes.next
      })
      assert.strictEqual(next[0], unused)
      assert.strictEqual(new Set([...next, started, open, done]).size, 7)
      for (const { scope } of next) assert.strictEqual(scope.state._tag, "Empty")
    }))

  it.effect("F18 a scope is closed with the exit of its message, once, and only where it holds something", () =>
    Effect.gen(function*() {
      const scope = Scope.makeUnsafe()
      assert.isUndefined(closed(scope, Exit.void))
      const exits: Array<string> = []
      yield* Scope.addFinalizerExit(scope, (exit) => Effect.sync(() => void exits.push(String(exit))))
      const close = closed(scope, Exit.fail("x"))
      assert.deepStrictEqual(exits, [])
      yield* close!
      assert.deepStrictEqual(exits, [String(Exit.fail("x"))])
      assert.isUndefined(closed(scope, Exit.void))
    }))
})
