/**
 * Errors of Temporal's client, by their gRPC status: which return a message to its source, and which end it.
 */
import { isGrpcServiceError, NamespaceNotFoundError, PayloadConverterError, ValueError } from "@temporalio/client"
import { WorkflowStarter } from "@millrace/workflow"

// https://grpc.io/docs/guides/status-codes
const status = {
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  unimplemented: 12,
  unavailable: 14,
  unauthenticated: 16
} as const

/** The server, as errors name it. */
export interface Server {
  readonly address: string
  readonly namespace: string
}

/** Searches an error and its causes for a status of gRPC. */
const statusOf = (error: unknown): { readonly code: number; readonly details: string } | undefined => {
  let found = error
  for (let depth = 0; depth < 5 && found instanceof Error; depth++) {
    if (isGrpcServiceError(found)) return { code: found.code, details: found.details }
    found = found.cause
  }
  return undefined
}

const text = (error: unknown): string => error instanceof Error ? error.message : String(error)

/** Gives an error of a call its class. */
export const failureOf = (server: Server, error: unknown): WorkflowStarter.CallError => {
  const { address, namespace } = server
  const unavailable = (message: string, failure: "dependency" | "throttled" = "dependency") =>
    new WorkflowStarter.WorkflowUnavailable({ failure, message, cause: error })
  const refused = (reason: "payload" | "size", message: string) =>
    new WorkflowStarter.WorkflowRefused({ reason, message, cause: error })
  const noNamespace = () =>
    unavailable(`Temporal at ${address} has no namespace ${namespace}: create it, or set TEMPORAL_NAMESPACE`)

  if (error instanceof NamespaceNotFoundError) return noNamespace()
  if (error instanceof PayloadConverterError || error instanceof ValueError) {
    return refused("payload", `The payload cannot be sent to Temporal: ${text(error)}`)
  }
  const found = statusOf(error)
  switch (found?.code) {
    case status.invalidArgument:
      return refused("payload", `Temporal refuses the request: ${found.details}`)
    case status.resourceExhausted:
      // the status of a message above gRPC's limit, too, which a later attempt does not make smaller
      return /larger than max/i.test(found.details)
        ? refused("size", `The request is too large for Temporal: ${found.details}`)
        : unavailable(`Temporal at ${address} is overloaded: ${found.details}`, "throttled")
    case status.notFound:
      return /namespace/i.test(found.details) ? noNamespace() : unavailable(`Temporal: ${found.details}`)
    case status.permissionDenied:
    case status.unauthenticated:
      return unavailable(
        `Temporal at ${address} refuses the credentials for the namespace ${namespace}: check the API key or the certificate`
      )
    case status.deadlineExceeded:
      return unavailable(`Temporal at ${address} has not answered in time`)
    default:
      return unavailable(
        `Temporal at ${address} is unavailable: check the address, TLS and the server. ${found?.details ?? text(error)}`
      )
  }
}
