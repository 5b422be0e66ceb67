/**
 * The exit code of a program ended by a signal.
 */
import { Cause, Runtime } from "effect"

/**
 * Sets the exit code, for `NodeRuntime.runMain`: a program that SIGTERM or SIGINT has ended in order exits with 0, a failed
 * program with 1 or the code of its error. Without it `runMain` exits with 130 after a signal, a failure for supervisors.
 *
 * **Example** (a service that ends in order)
 *
 * ```ts no-run
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Health } from "@millrace/core"
 * import { Layer } from "effect"
 *
 * Health.layerLifetime().pipe(Layer.provide(Health.layer([])), Layer.launch, NodeRuntime.runMain({ teardown: Health.teardown }))
 * ```
 */
export const teardown: Runtime.Teardown = (exit, onExit) =>
  exit._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause) ? onExit(0) : Runtime.defaultTeardown(exit, onExit)
