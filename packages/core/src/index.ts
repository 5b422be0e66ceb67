/**
 * Typed middleware for message brokers and HTTP.
 */
export * as AsyncApi from "./broker/AsyncApi.ts"
export * as Broker from "./broker/Broker.ts"
export * as BrokerError from "./broker/BrokerError.ts"
export * as DeadLetters from "./broker/DeadLetters.ts"
export * as Driver from "./broker/Driver.ts"
export * as DriverOptions from "./broker/DriverOptions.ts"
export * as Intake from "./broker/Intake.ts"
export * as KillSwitch from "./broker/KillSwitch.ts"
export * as Lanes from "./broker/Lanes.ts"
export * as Publisher from "./broker/Publisher.ts"
export * as Request from "./broker/Request.ts"
export * as Retries from "./broker/Retries.ts"
export * as Router from "./broker/Router.ts"
export * as Settlement from "./broker/Settlement.ts"
export * as Subscription from "./broker/Subscription.ts"
export * as Subscriptions from "./broker/Subscriptions.ts"
export * as Engine from "./engine/Engine.ts"
export * as Health from "./health/Health.ts"
export * as MemoryBroker from "./memory/MemoryBroker.ts"
export * as Audit from "./middleware/Audit.ts"
export * as Auth from "./middleware/Auth.ts"
export * as Bulkhead from "./middleware/Bulkhead.ts"
export * as CircuitBreaker from "./middleware/CircuitBreaker.ts"
export * as DeadLetter from "./middleware/DeadLetter.ts"
export * as Decode from "./middleware/Decode.ts"
export * as Fallback from "./middleware/Fallback.ts"
export * as Filter from "./middleware/Filter.ts"
export * as Hedge from "./middleware/Hedge.ts"
export * as Hooks from "./middleware/Hooks.ts"
export * as Idempotency from "./middleware/Idempotency.ts"
export * as Log from "./middleware/Log.ts"
export * as Metrics from "./middleware/Metrics.ts"
export * as Parse from "./middleware/Parse.ts"
export * as Publish from "./middleware/Publish.ts"
export * as RateLimit from "./middleware/RateLimit.ts"
export * as Retry from "./middleware/Retry.ts"
export * as Timeout from "./middleware/Timeout.ts"
export * as Trace from "./middleware/Trace.ts"
export * as Address from "./model/Address.ts"
export * as Baggage from "./model/Baggage.ts"
export * as Channel from "./model/Channel.ts"
export * as Failure from "./model/Failure.ts"
export * as Headers from "./model/Headers.ts"
export * as Histogram from "./model/Histogram.ts"
export {
  Delivery,
  delivery,
  type Envelope,
  type Hook,
  Message,
  type NativeParts,
  type Origin,
  Outgoing,
  type Raw,
  type Reader
} from "./model/Message.ts"
export * as Outcome from "./model/Outcome.ts"
export * as Parcel from "./model/Parcel.ts"
export * as Redaction from "./model/Redaction.ts"
export * as Status from "./model/Status.ts"
export * as TraceContext from "./model/TraceContext.ts"
export * as After from "./pipeline/After.ts"
export * as Batch from "./pipeline/Batch.ts"
export * as Description from "./pipeline/Description.ts"
export * as Eager from "./pipeline/Eager.ts"
export * as Gather from "./pipeline/Gather.ts"
export type { Around, Change, Fixed, Handler, OnAnswer, OnError } from "./pipeline/Handler.ts"
export * as Middleware from "./pipeline/Middleware.ts"
export * as Order from "./pipeline/Order.ts"
export * as Route from "./pipeline/Route.ts"
export * as Stack from "./pipeline/Stack.ts"
