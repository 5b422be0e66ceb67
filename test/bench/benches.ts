import { audit } from "./audit.ts"
import type { Bench } from "./Bench.ts"
import { broker } from "./broker.ts"
import { dispatch } from "./dispatch.ts"
import { fairness } from "./fairness.ts"
import { kafka } from "./kafka.ts"
import { keyed } from "./keyed.ts"
import { memory } from "./memory.ts"
import { stack } from "./stack.ts"
import { wrappers } from "./wrappers.ts"

/** Every benchmark, in the order of the goals. */
export const benches: ReadonlyArray<Bench> = [dispatch, wrappers, broker, stack, audit, kafka, keyed, memory, fairness]
