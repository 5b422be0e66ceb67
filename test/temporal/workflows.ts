/**
 * The code of the tests' workflows, for the sandbox of Temporal's worker.
 */
import { ApplicationFailure, condition, defineSignal, proxyActivities, setHandler } from "@temporalio/workflow"

interface Payload {
  readonly n: number
}

const { double } = proxyActivities<{ double: (payload: Payload) => Promise<number> }>({ startToCloseTimeout: "30s" })

export const Double = (payload: Payload): Promise<number> => double(payload)

const go = defineSignal<[string]>("go")

export const Hold = async (_: Payload): Promise<string> => {
  let said: string | undefined
  setHandler(go, (text) => {
    said ??= text
  })
  await condition(() => said !== undefined)
  return said ?? ""
}

export const Fail = ({ n }: Payload): Promise<number> => {
  const why = `${n} is not accepted`
  throw ApplicationFailure.nonRetryable(why, "Refused", { _tag: "Refused", why })
}
