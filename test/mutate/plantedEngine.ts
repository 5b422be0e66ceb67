/**
 * Faults of the engine that users have found, put back by an exact edit each. Tests must kill every one of them.
 */
import type { Plant } from "../simulate/plants.ts"

const fault = (name: string, about: string, ...edits: Plant["edits"]): Plant => ({ name, about, edits })

export const engineFaults: ReadonlyArray<Plant> = [
  fault(
    "use-letter-compose-throws",
    "calls the composing of a dead letter without a guard",
    {
      file: "internal/engine/DeadLetterWriter.ts",
      find: "return called(() => publish([Instructions.keep(instructions, compose(form))]))",
      replace: "return publish([Instructions.keep(instructions, compose(form))])"
    }
  ),
  fault(
    "use-fibers-unobserved",
    "lets a defect end the loop, or the lives of a source, for good",
    {
      file: "internal/engine/Source.ts",
      find: "      if (!isFault(exit)) return Effect.void\n",
      replace: "      return Effect.void\n"
    }
  ),
  fault(
    "use-settle-unguarded",
    "calls settle without a guard",
    {
      file: "internal/engine/Worker.ts",
      find: "      return { _tag: \"GiveUp\", outcome: Outcome.DeadLetter(defect) }",
      replace: "      throw defect"
    }
  ),
  fault(
    "use-health-key-throws",
    "shows keys in health without a guard",
    {
      file: "internal/engine/stalls.ts",
      find: "readable(() => delivery.key, undefined)",
      replace: "delivery.key"
    }
  ),
  fault(
    "use-logger-stops-restart",
    "restarts a source only after its log line was written",
    {
      file: "internal/engine/Source.ts",
      find: "return logged(Effect.logWarning(text, this.lastError ?? \"connection closed\")).pipe(",
      replace: "return Effect.logWarning(text, this.lastError ?? \"connection closed\").pipe("
    }
  ),
  fault(
    "use-logger-keeps-letter-open",
    "settles a message only after the log line of its smaller dead letter was written",
    {
      file: "internal/engine/DeadLetterWriter.ts",
      find: "Effect.as(logged(Effect.annotateLogs(Effect.logWarning(text, error), place)), \"written\")",
      replace: "Effect.as(Effect.annotateLogs(Effect.logWarning(text, error), place), \"written\")"
    }
  ),
  fault(
    "use-logger-stops-start",
    "starts a subscription only after the log line on its dead letter channel was written",
    {
      file: "internal/engine/Engine.ts",
      find: "    logged(Effect.logWarning(\n      `The dead",
      replace: "    (Effect.logWarning(\n      `The dead"
    }
  ),
  fault(
    "use-letter-one-form",
    "never tries a smaller form of a dead letter that is refused",
    {
      file: "internal/engine/DeadLetterWriter.ts",
      find: "if (form < last) return this.again(writing, form + 1, failures)",
      replace: "if (form < last && form < 0) return this.again(writing, form + 1, failures)"
    }
  ),
  fault(
    "use-refused-retry-repeats",
    "publishes a delayed retry again and again that is refused for good",
    {
      file: "internal/engine/DeadLetterWriter.ts",
      find: "if (isAboutMessage && writing.kind === \"delayed retry\") return Effect.succeed(\"refused\")\n",
      replace: "\n"
    }
  ),
  fault(
    "use-smaller-letter-untold",
    "does not tell of a dead letter that was written in a smaller form",
    {
      file: "internal/engine/DeadLetterWriter.ts",
      find: "onSuccess: () => this.written(writing, form),",
      replace: "onSuccess: () => Effect.succeed<Written>(\"written\"),"
    }
  ),
  fault(
    "use-health-without-letters",
    "does not show in health which messages wait for their dead letter",
    {
      file: "internal/engine/Worker.ts",
      find: "    yield* this.writer.inFlight()\n",
      replace: ""
    }
  ),
  fault(
    "use-health-without-effects",
    "does not show in health which messages wait for a durable effect",
    {
      file: "internal/engine/Worker.ts",
      find: "    yield* this.effects.inFlight()\n",
      replace: ""
    }
  ),
  fault(
    "use-letter-error-unseen",
    "does not show in health why a dead letter could not be written",
    {
      file: "internal/engine/DeadLetterWriter.ts",
      find: "    this.options.failed(error)\n",
      replace: ""
    }
  ),
  fault(
    "use-letter-channel-undeclared",
    "does not declare the dead letter channel at the start",
    {
      file: "internal/engine/Engine.ts",
      find: "called(() => driver.declare({ channel: deadLetterChannel }))",
      replace: "Effect.void"
    }
  ),
  fault(
    "use-letter-channel-untold",
    "does not tell that the dead letter channel could not be declared",
    {
      file: "internal/engine/Engine.ts",
      find: "isDeclared(cause) ? Effect.void : missing(cause)",
      replace: "Effect.void"
    }
  ),
  fault(
    "use-stuck-as-running",
    "lets messages wait as long as handlers may run before it tells of them",
    {
      file: "internal/engine/stalls.ts",
      find: "(each.state === \"running\" ? running : waiting)",
      replace: "running"
    }
  ),
  fault(
    "use-letter-untold",
    "tells and counts no dead letter that the engine has written",
    {
      file: "internal/engine/Worker.ts",
      find: "if (leaving.kind === \"dead letter\") this.reportDeadLetter(leaving.delivery, error)",
      replace: ""
    }
  ),
  fault(
    "use-native-letter-untold",
    "tells and counts no dead letter that the broker writes",
    {
      file: "internal/engine/Worker.ts",
      find: "    if (outcome._tag === \"DeadLetter\") this.reportDeadLetter(delivery, outcome.error)\n",
      replace: ""
    }
  ),
  fault(
    "use-held-retry-uncounted",
    "does not count retries that the engine holds",
    {
      file: "internal/engine/Worker.ts",
      find: "        this.countRetry(delivery, verdict.cost.error, verdict.outcome)\n",
      replace: ""
    }
  ),
  fault(
    "use-restart-ready-proves",
    "takes a source that has connected for one that works",
    {
      file: "internal/engine/Source.ts",
      find: "    if (ready === undefined) return false\n",
      replace: "    if (ready === undefined) return false\n    if (ready.at > 0 || ready.at <= 0) return true\n"
    }
  ),
  fault(
    "use-restart-handled-proves",
    "takes a source that has handled a message for one that works, though its broker confirms none",
    {
      file: "internal/engine/Source.ts",
      find: "this.driver.capabilities.settlement === \"none\" ? this.worker.settled : this.worker.confirmations",
      replace: "this.worker.settled"
    }
  ),
  fault(
    "use-restart-none-ready-proves",
    "takes a connected source for one that works where the broker confirms nothing",
    {
      file: "internal/engine/Source.ts",
      find: "    return this.done > ready.done ||",
      replace: "    return this.driver.capabilities.settlement === \"none\" || this.done > ready.done ||"
    }
  ),
  fault(
    "use-restart-none-never-proven",
    "lets the waits between restarts grow though messages are handled, where the broker confirms nothing",
    {
      file: "internal/engine/Source.ts",
      find: "this.driver.capabilities.settlement === \"none\" ? this.worker.settled : this.worker.confirmations",
      replace: "this.driver.capabilities.settlement === \"none\" ? 0 : this.worker.confirmations"
    }
  ),
  fault(
    "use-restart-long-life",
    "lets the waits between restarts grow after a long connection",
    {
      file: "internal/engine/Source.ts",
      find: "this.clock.currentTimeMillisUnsafe() - ready.at >= this.consumer.restart.cap",
      replace: "false"
    }
  ),
  fault(
    "use-scope-left-open",
    "does not close the scope of a message",
    {
      file: "internal/engine/MessageScopes.ts",
      find: "scope.state._tag === \"Open\" ? Scope.close(scope, exit) : undefined",
      replace: "scope.state._tag === \"Open\" && exit === undefined ? Scope.close(scope, exit) : undefined"
    }
  ),
  fault(
    "use-scope-shared",
    "gives the scope of a suspended message to the next one",
    {
      file: "internal/engine/Worker.ts",
      find: "    this.scopes.rotate()\n    this.suspend",
      replace: "    this.suspend"
    }
  ),
  fault(
    "use-drain-defect",
    "ends a drain early when a driver dies with a defect",
    {
      file: "internal/engine/endLeases.ts",
      find: "Effect.timeoutOption(Effect.exit(calls), farewell)",
      replace: "Effect.timeoutOption(calls, farewell)"
    }
  ),
  fault(
    "use-consume-throws-start",
    "lets a start wait for ever when consume throws",
    {
      file: "internal/engine/Source.ts",
      find: "          if (!isStarted) return Effect.asVoid(Deferred.done(this.started, exit))\n",
      replace: "          if (!isStarted) return Effect.void\n"
    }
  ),
  fault(
    "use-start-interrupted",
    "leaves a subscription running whose start was interrupted",
    {
      file: "internal/engine/Engine.ts",
      find: "Effect.onExit((exit) => exit._tag === \"Failure\" ? drain : Effect.void)",
      replace: "Effect.onExit((exit) => exit._tag === \"Failure\" ? Effect.void : Effect.void)"
    }
  ),
  fault(
    "use-finalizer-throws",
    "closes the scope of a driver without a guard",
    {
      file: "internal/engine/Source.ts",
      find:
        "      Effect.matchCause(Scope.close(scope, exit), {\n        onSuccess: () => {},\n        onFailure: (cause) => {\n          this.lastError = Cause.squash(cause)\n        }\n      })\n",
      replace: "      Scope.close(scope, exit)\n"
    }
  ),
  fault(
    "use-room-no-share",
    "keeps no room for leases beside one that stands still",
    {
      file: "internal/engine/Room.ts",
      find: "const reserve = limit / (2 * this.leases.size)",
      replace: "const reserve = 0"
    }
  ),
  fault(
    "use-intake-kept",
    "keeps the batches of leases that have ended while it is paused",
    {
      file: "internal/engine/Dispatcher.ts",
      find: "    this.intake.drop((batch) => batch.lease === lease)\n",
      replace: ""
    }
  ),
  fault(
    "use-subscription-in-request",
    "starts a subscription with the context of a request",
    {
      file: "internal/engine/Engine.ts",
      find: "const own = Detached.context(yield* Effect.context<R>())",
      replace: "const own = yield* Effect.context<R>()"
    }
  )
]
