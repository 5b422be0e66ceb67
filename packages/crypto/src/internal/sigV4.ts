/**
 * The signature of a `POST` to `/` without a query, as the JSON protocol of AWS has it.
 */
import * as AwsSignature from "@millrace/core/awsSignature"
import type { Redacted } from "effect"

/** Credentials of AWS. */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: Redacted.Redacted<string>
  /** Only for temporary credentials. */
  readonly sessionToken?: Redacted.Redacted<string> | undefined
}

/** Returns the headers of a signed request: those given, in lower case, and date, token and signature. `now` is in Unix milliseconds. */
export const signed = (
  { body, headers, host, region, service }: {
    readonly host: string
    readonly region: string
    readonly service: string
    readonly headers: { readonly [name: string]: string }
    readonly body: string
  },
  credentials: Credentials,
  now: number
): { readonly [name: string]: string } => {
  const { sessionToken } = credentials
  const scope = { region, service, now }
  const sent: Record<string, string> = {
    ...headers,
    "x-amz-date": AwsSignature.stampOf(scope, credentials).time,
    ...(sessionToken === undefined ? {} : { "x-amz-security-token": AwsSignature.plain(sessionToken) })
  }
  const request = {
    method: "POST",
    path: "/",
    query: "",
    headers: { ...sent, host },
    payload: AwsSignature.digest(body)
  }
  return { ...sent, authorization: AwsSignature.authorizationOf(request, scope, credentials) }
}
