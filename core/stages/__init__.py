"""Stages: one type, one file. This registry is the table of contents; a new stage is one file and one line.

Whoever reads blueprints or runs flows gets ``STAGES`` handed in. ``STORABLE`` leaves out what only code makes.
"""

from __future__ import annotations

from core.stages.authenticator_duo import AuthenticatorDuoStage
from core.stages.authenticator_email import AuthenticatorEmailStage
from core.stages.authenticator_sms import AuthenticatorSMSStage
from core.stages.authenticator_static import AuthenticatorStaticStage
from core.stages.authenticator_totp import AuthenticatorTOTPStage
from core.stages.authenticator_validate import AuthenticatorValidateStage
from core.stages.base import Stage
from core.stages.captcha import CaptchaStage
from core.stages.consent import ConsentStage
from core.stages.deny import DenyStage
from core.stages.dummy import DummyStage
from core.stages.email import ConfirmStage, EmailStage
from core.stages.identification import IdentificationStage
from core.stages.invitation import InvitationStage
from core.stages.mtls import MutualTLSStage
from core.stages.oauth2_fulfilment import OAuth2FulfilmentStage
from core.stages.password import PasswordStage
from core.stages.prompt import PromptStage
from core.stages.redirect import RedirectStage
from core.stages.redirect_url import RedirectURLStage
from core.stages.session_end import SessionEndStage
from core.stages.user_delete import UserDeleteStage
from core.stages.user_login import UserLoginStage
from core.stages.user_logout import UserLogoutStage
from core.stages.user_write import UserWriteStage

STORABLE: dict[str, type[Stage]] = {
    stage.model: stage
    for stage in (
        AuthenticatorDuoStage,
        AuthenticatorEmailStage,
        AuthenticatorSMSStage,
        AuthenticatorStaticStage,
        AuthenticatorTOTPStage,
        AuthenticatorValidateStage,
        CaptchaStage,
        ConsentStage,
        DenyStage,
        DummyStage,
        EmailStage,
        IdentificationStage,
        InvitationStage,
        MutualTLSStage,
        PasswordStage,
        PromptStage,
        RedirectStage,
        UserDeleteStage,
        UserLoginStage,
        UserLogoutStage,
        UserWriteStage,
    )
}
STAGES: dict[str, type[Stage]] = STORABLE | {
    stage.model: stage for stage in (ConfirmStage, OAuth2FulfilmentStage, RedirectURLStage, SessionEndStage)
}
