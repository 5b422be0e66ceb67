/**
 * The workflows of the tests, as their callers know them; each engine has code for them.
 */
import { type Message } from "@millrace/core"
import { Activity, EffectWorkflows, Execution, WorkflowType } from "@millrace/workflow"
import { Effect, Schema } from "effect"

const Payload = Schema.Struct({ n: Schema.Number })

export class Refused extends Schema.TaggedError<Refused>()("Refused", { why: Schema.String }) {}

/** Doubles `n` by an activity. */
export const Double = WorkflowType.make("Double", { payload: Payload, success: Schema.Number })

/** Waits for the signal `go`, and answers its payload. */
export const Hold = WorkflowType.make("Hold", { payload: Payload, success: Schema.String })

/** Fails with its error. */
export const Fail = WorkflowType.make("Fail", { payload: Payload, success: Schema.Number, error: Refused })

/** The headers of the calls of activities, by execution. */
export const seen = new Map<string, Array<{ readonly [name: string]: string }>>()

export const double = Activity.make(
  "double",
  { payload: Payload, success: Schema.Number },
  (message: Message<typeof Payload.Type>) => {
    const id = message.headers["message-id"] ?? ""
    seen.set(id, [...seen.get(id) ?? [], message.headers])
    return Effect.succeed(message.payload.n * 2)
  }
)

export const implementations = [
  EffectWorkflows.implement(Double, (payload) => double.execute(payload)),
  EffectWorkflows.implement(Hold, () => Execution.signal("go", Schema.String)),
  EffectWorkflows.implement(Fail, ({ n }) => Effect.fail(new Refused({ why: `${n} is not accepted` })))
]
