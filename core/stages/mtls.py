"""Mutual-TLS stage: who a client certificate belongs to.

The certificate comes with the request (:mod:`core.certificates`): from an outpost that may pass certificates on, or
from the proxy in front whose header the operator named. Who showed it held the key; here its issuer, dates and purpose
are checked, and the one user it names becomes ``pending_user``. It never replaces another user that the flow is about.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from cryptography import x509

from common.client_certificate import ClientCertificate, trusted
from common.tls import CertificateError
from core import access, certificates, models
from core.stages.base import Advance, Invalid, Options, Outcome, Stage

REQUIRED = "Certificate required but no certificate was given."
REFUSED = "The certificate is not accepted."
METHOD = "mtls"


class MutualTLSOptions(Options, kw_only=True):
    """``optional`` goes on without a user when there is no usable certificate. Without ``certificate_authorities``
    those of the brand count."""

    mode: Literal["optional", "required"]
    cert_attribute: Literal["subject", "common_name", "email"]
    user_attribute: Literal["username", "email"]
    certificate_authorities: list[str] = msgspec.field(default_factory=list)


class MutualTLSStage(Stage):
    """Finds ``pending_user`` by a client certificate."""

    model = "authentik_stages_mtls.mutualtlsstage"
    Options = MutualTLSOptions
    component = "ak-stage-mtls-form"
    verbose_name = "Mutual TLS Stage"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """Works on GET and POST alike."""
        certificate = self._given()
        if certificate is None:
            return self._without(REQUIRED)
        if not self._trusted(certificate):
            return self._refuse(certificate, "the certificate is not trusted")
        context = self.run.plan.context
        user = self._owner(certificate)
        described = certificates.described(certificate)
        if user is None:
            if self.run.flow.designation == "enrollment":
                self._prepare_enrollment(certificate)
                context["certificate"] = described
                return Advance()
            return self._refuse(certificate, "the certificate belongs to nobody")
        pending = context.get("pending_user")
        if isinstance(pending, models.User) and pending != user:
            return self._refuse(certificate, "the certificate belongs to somebody else")
        if pending is None:
            context["pending_user"] = user
        context.setdefault("auth_method", METHOD)
        context.setdefault("auth_method_args", {})["certificate"] = described
        context["certificate"] = described
        return Advance()

    def _given(self) -> x509.Certificate | None:
        """The certificate that came with the request from somebody who may pass one on."""
        request, services = self.run.request, self.run.services
        if request.client_certificate is None:
            return None
        header, text = request.client_certificate
        if request.outpost is not None:
            account = services.database.first(models.User, username=request.outpost.service_account)
            if account is None or not services.access.may(account, access.PASS_CERTIFICATE, self.stage):
                return None
        return certificates.read(header, text)

    def _trusted(self, certificate: x509.Certificate) -> bool:
        database = self.run.services.database
        brand = self.run.request.brand
        pks = self.options.certificate_authorities or (brand.client_certificates if brand is not None else [])
        found = database.get_many(models.KeyPair, pks)
        issuers = "\n".join(found[pk].certificate_data for pk in pks if pk in found)
        now = datetime.datetime.fromtimestamp(self.run.services.now(), datetime.UTC)
        try:
            return trusted(ClientCertificate(certificates.pem(certificate)), issuers, now, partial_chain=True)
        except CertificateError:
            self.run.services.event(
                "configuration_error",
                self.run.request,
                stage=self.stage,
                message="The stage has no usable certificate authorities, and neither has the brand.",
            )
            return False

    def _owner(self, certificate: x509.Certificate) -> models.User | None:
        """The one user whom the certificate names; nobody if it could be several."""
        match self.options.cert_attribute:
            case "subject":
                names = [certificate.subject.rfc4514_string()]
            case "common_name":
                names = certificates.common_names(certificate)
                names = names if len(names) == 1 else []
            case _:
                names = certificates.emails(certificate)
        wanted = [name for name in names if name.strip()]
        if not wanted:
            return None
        filters: dict[str, Any] = {f"{self.options.user_attribute}__in": wanted}
        found = self.run.services.database.find(models.User, limit=2, **filters)
        return found[0] if len(found) == 1 else None

    def _prepare_enrollment(self, certificate: x509.Certificate) -> None:
        """What the certificate says of a new user; what is known already stays."""
        known = self.run.plan.context.setdefault("prompt_data", {})
        for name, values in (
            ("email", certificates.emails(certificate)),
            ("name", certificates.common_names(certificate)),
        ):
            if values:
                known.setdefault(name, values[0])

    def _refuse(self, certificate: x509.Certificate, reason: str) -> Outcome:
        described = certificates.described(certificate)
        del described["raw"]
        self.run.services.event(
            "login_failed", self.run.request, stage=self.stage, reason=reason, certificate=described
        )
        return self._without(REFUSED)

    def _without(self, text: str) -> Outcome:
        return Advance() if self.options.mode == "optional" else Invalid(text)
