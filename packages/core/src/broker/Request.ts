/**
 * Request and reply over any broker: one value types both ends, every failure is answered, and a deadline ends every wait.
 */
export { RemoteError } from "./Problem.ts"
export { answer, type Answered, type AnswerOptions } from "./request/answer.ts"
export {
  type Asking,
  type Client,
  client,
  type ClientOptions,
  type Failing,
  type Statistics
} from "./request/client.ts"
export { DeadlineExceeded, Expired, make, names, type Options, type Request } from "./request/contract.ts"
