/**
 * Millrace on HTTP: servers, clients, webhooks and sinks over effect/http.
 */
export * as Body from "./Body.ts"
export { Call } from "./Call.ts"
export * as Caller from "./Caller.ts"
export * as Client from "./Client.ts"
export * as ClientAddress from "./ClientAddress.ts"
export * as Cors from "./Cors.ts"
export * as HealthRoutes from "./HealthRoutes.ts"
export * as IdempotencyKey from "./IdempotencyKey.ts"
export * as Problem from "./Problem.ts"
export * as RateLimitFields from "./RateLimitFields.ts"
export { Request, type Source } from "./Request.ts"
export * as Server from "./Server.ts"
export * as Sink from "./Sink.ts"
export * as Webhook from "./Webhook.ts"
